"""Body: the bytes of an object, read the same way whether they are in memory or in a temporary file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Body(Protocol):
    """Bytes that can be read again and again, from any place."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer where the body ends before."""

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Yield everything from ``start`` on, in order, in pieces of any length."""


@dataclass(frozen=True, slots=True)
class WholeBody:
    """A body in memory: one piece."""

    body: bytes

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.body)

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer where the body ends before."""
        return self.body[start : start + length]

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Yield everything from ``start`` on."""
        if start < len(self.body):
            yield self.body[start:]
