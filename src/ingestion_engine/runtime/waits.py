"""What the work of this process waits for at the moment, so that a wait inside a partition is shown in its job."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

_current: dict[object, str] = {}
"""Reasons by their holder; one assignment each, so that threads need no lock."""


class Wait(ExitStack):
    """Holds the reason of one piece of work, from its first failure to the end of the ``with`` block."""

    def begin(self, why: str) -> Self:
        """Show a reason, in place of a former one of the same work."""
        if self not in _current:
            self.callback(_current.pop, self, None)
        _current[self] = why
        return self


def current_waits() -> list[str]:
    """Return what this process waits for, each reason once."""
    return list(dict.fromkeys(list(_current.values())))
