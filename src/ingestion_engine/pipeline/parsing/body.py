"""Body: one interface to the bytes of an object, in memory or in a temporary file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Body(Protocol):
    """Bytes that can be read repeatedly from any position."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer at the end of the body."""

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes from ``start`` on, in order, in pieces of any length."""


@dataclass(frozen=True, slots=True)
class WholeBody:
    """A body in memory, in one piece."""

    body: bytes

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.body)

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer at the end of the body."""
        return self.body[start : start + length]

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes from ``start`` on."""
        if start < len(self.body):
            yield self.body[start:]
