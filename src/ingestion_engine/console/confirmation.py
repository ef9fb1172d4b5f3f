"""Pages that say exactly what an action will do, and ask before it is done.

An action is a form of its own page, which works without JavaScript: ``GET`` shows what happens, ``POST`` does it. What
cannot be undone asks for a name that the reader has to type. A form carries a random token as the idempotency key of
its action, so that a second press of the button does nothing more.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Form, Request, Response

from ingestion_engine.api.problems import problem_of_error
from ingestion_engine.console.pages import render
from ingestion_engine.domain.errors import IngestionError, SubmissionError

OnceField = Annotated[str | None, Form(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
"""The token of a form."""
TypedField = Annotated[str, Form(max_length=256)]
"""The name that the reader typed."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a page of confirmation shows."""

    title: str
    """What is done, with the name: "Delete collection 'docs'"."""
    effects: Sequence[str]
    """What happens, one sentence each, with numbers and names."""
    button: str | None
    """What does it; None when there is nothing to do."""
    keep: str
    """What leads back without doing it, in words that fit it: "Keep the collection"."""
    back: str
    """URL of the page that the reader comes from."""
    back_name: str
    section: str
    type_name: str | None = None
    """Name that the reader has to type; None for what can be undone."""
    facts: Sequence[tuple[str, str]] = ()
    """Names and values that show what is concerned."""
    warning: str | None = None
    choices: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    """Values and labels of each choice, by the name of its field."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Labels of optional texts, by the name of their field."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Values of hidden fields."""


def ask(
    request: Request, confirmation: Confirmation, *, error: IngestionError | None = None, typed: str = ""
) -> Response:
    """Return the page of a confirmation, with the reason why the action was refused, if it was."""
    problem: dict[str, Any] | None = None if error is None else {"hint": None, **problem_of_error(error)}
    return render(
        request,
        "confirm.html",
        status=200 if problem is None else problem["status"],
        section=confirmation.section,
        ask=confirmation,
        problem=problem,
        typed=typed,
        once=secrets.token_urlsafe(18),
    )


def check_typed(confirmation: Confirmation, typed: str) -> None:
    """Return when the reader typed the name that confirms an action. Pure. Raises SubmissionError "not_confirmed"."""
    if confirmation.type_name is not None and typed.strip() != confirmation.type_name:
        raise SubmissionError(
            "not_confirmed",
            f"The typed name is not {confirmation.type_name!r}; nothing was changed.",
            hint="Type the name exactly as it is written here.",
            field="typed",
        )
