"""What checks find: records, how they become JSON, and how secrets are kept out of them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr

from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.settings import Settings

FORMAT: Final = 1
"""Version of the JSON form; new fields do not change it."""

SHORTEST_SECRET: Final = 4
"""Secrets with fewer characters are not looked for: they would occur in words."""

_HIDDEN: Final = "***"
_USER: Final = re.compile(r"://([^/@\s]*)@")
"""User and password of a URL."""
_PASSWORD: Final = re.compile(r"[?&](?:password|sslpassword)=([^&#]+)")
"""Password among the parameters of a database URL."""


class State(StrEnum):
    """Result of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works, but something should be changed."""
    FAILED = "failed"
    NOT_CONFIGURED = "not_configured"
    """The settings do not name it, and nothing requires it."""
    SKIPPED = "skipped"
    """It could not be checked, or was not to be; the detail has the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result. A check has one, or one for each of several servers."""

    state: State
    detail: str
    """What was found, in one line."""
    hint: str = ""
    """What the reader can do, in one line that starts with a verb; empty when there is nothing to do."""
    target: str = ""
    """The server, collection or permission that it is about, when a check has several results."""
    code: str | None = None
    """Error code of docs/api.md, if there is one."""
    latency_ms: float | None = None
    """Duration of the request that tells how far away the system is; None without one."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Values in the detail, for programs; JSON types."""
    name: str = ""
    """Name of the check; set by whoever runs it."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON types, with every field."""
        return {
            "name": self.name,
            "target": self.target or None,
            "state": str(self.state),
            "detail": self.detail,
            "hint": self.hint or None,
            "code": self.code,
            "latency_ms": self.latency_ms,
            "facts": self.facts,
        }


def ok(detail: str, *, target: str = "", latency_ms: float | None = None, **facts: Any) -> Finding:
    """Return the result of a check that found nothing wrong."""
    return Finding(state=State.OK, detail=detail, target=target, latency_ms=latency_ms, facts=facts)


def warn(detail: str, hint: str, *, target: str = "", latency_ms: float | None = None, **facts: Any) -> Finding:
    """Return the result of a check that found something that works, but should be changed."""
    return Finding(state=State.WARNING, detail=detail, hint=hint, target=target, latency_ms=latency_ms, facts=facts)


def fail(detail: str, hint: str, *, target: str = "", code: str | None = None, **facts: Any) -> Finding:
    """Return the result of a check that found something broken."""
    return Finding(state=State.FAILED, detail=detail, hint=hint, target=target, code=code, facts=facts)


def fail_by(error: IngestionError, hint: str, *, target: str = "", **facts: Any) -> Finding:
    """Return the result for an error of ours; ``hint`` stands where the error has none."""
    return fail(error.message, error.hint or hint, target=target, code=error.code, **facts)


def not_configured(detail: str, hint: str) -> Finding:
    """Return the result for something that the settings do not name."""
    return Finding(state=State.NOT_CONFIGURED, detail=detail, hint=hint)


def skip(reason: str, hint: str = "", *, target: str = "") -> Finding:
    """Return the result of a check that was not made."""
    return Finding(state=State.SKIPPED, detail=reason, hint=hint, target=target)


def count_states(findings: Iterable[Finding]) -> dict[str, int]:
    """Return the number of results in each state, states without any included."""
    counted = Counter(finding.state for finding in findings)
    return {str(state): counted[state] for state in State}


def is_good(findings: Iterable[Finding], *, strict: bool) -> bool:
    """Return whether nothing failed; with ``strict``, whether nothing warns either."""
    bad = {State.FAILED, State.WARNING} if strict else {State.FAILED}
    return not any(finding.state in bad for finding in findings)


def hide_secrets(finding: Finding, secrets: Collection[str]) -> Finding:
    """Return a result with every secret replaced, and with texts on one line.

    Adapters keep secrets out of their messages; this also covers the words of servers and libraries.
    """
    return replace(
        finding,
        detail=_clean(finding.detail, secrets),
        hint=_clean(finding.hint, secrets),
        target=_clean(finding.target, secrets),
        facts=_clean_value(finding.facts, secrets),
    )


def find_secrets(settings: Settings) -> tuple[str, ...]:
    """Return every secret in the settings, the longest first: fields of that kind, and passwords in URLs."""
    found = {secret for secret in _walk(settings) if len(secret) >= SHORTEST_SECRET}
    return tuple(sorted(found, key=len, reverse=True))


def _walk(value: Any) -> Iterable[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _walk(getattr(value, name))
    elif isinstance(value, str):
        for credentials in _USER.findall(value):
            _, colon, password = credentials.partition(":")
            yield from {password, unquote(password)} if colon else ()
        yield from _PASSWORD.findall(value)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _walk(item)


def _clean(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return " ".join(_USER.sub("://", text).split())


def _clean_value(value: Any, secrets: Collection[str]) -> Any:
    if isinstance(value, str):
        return _clean(value, secrets)
    if isinstance(value, dict):
        return {name: _clean_value(inner, secrets) for name, inner in value.items()}
    return [_clean_value(inner, secrets) for inner in value] if isinstance(value, list) else value
