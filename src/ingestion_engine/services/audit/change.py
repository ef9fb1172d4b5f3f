"""What a request is about to change: told by the service that changes it, recorded by who serves the request.

Changes that no request has ordered, such as those of sweeps, are not recorded: they complete what a request began.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, Final, Protocol


class ChangeRecord(Protocol):
    """The record of one request."""

    async def begin(self) -> None:
        """Make the intent durable; the second call does nothing.

        Raises:
            DatabaseUnavailable: it could not be stored; the change must not be made.
        """
        ...

    def note(self, **facts: Any) -> None:
        """Add what the request is about: ``subject``, ``job_id``, or any other name; values without secrets."""
        ...


_current: Final[contextvars.ContextVar[ChangeRecord | None]] = contextvars.ContextVar("audited_change", default=None)


@contextlib.contextmanager
def recording(record: ChangeRecord) -> Iterator[None]:
    """Have the changes inside of the ``with`` block recorded."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


def note_change(**facts: Any) -> None:
    """Add to the record of the current request what it is about. Never raises."""
    record = _current.get()
    if record is not None:
        record.note(**{name: value for name, value in facts.items() if value is not None})


async def begin_change(**facts: Any) -> None:
    """Record that the current request is about to change something; call it directly before the first change.

    Args:
        facts: As for ``note_change``.

    Raises:
        DatabaseUnavailable: the intent could not be stored; the change must not be made.
    """
    note_change(**facts)
    record = _current.get()
    if record is not None:
        await record.begin()
