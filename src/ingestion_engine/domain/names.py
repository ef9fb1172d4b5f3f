"""Names that a later release may extend: states, engines, stores, modes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from enum import StrEnum
from typing import Self

_reads_unknown: ContextVar[bool] = ContextVar("reads_unknown_names", default=False)


class OpenName(StrEnum):
    """A name of a list that later releases may extend.

    Unknown names are refused, except inside of ``reading_unknown_names``: there one becomes a member that equals its
    text and no known member, so that a client can read the response of a newer service.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not (_reads_unknown.get() and isinstance(value, str)):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member


@contextlib.contextmanager
def reading_unknown_names() -> Iterator[None]:
    """Let this thread or task read unknown names until the block ends."""
    token = _reads_unknown.set(True)
    try:
        yield
    finally:
        _reads_unknown.reset(token)
