"""Records of the Weaviate stand-in: an object on its way into a class, and one read from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ingestion_devstack.weaviate.values import format_uuid


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object to write: validated properties, and vectors as little-endian float32 by space."""

    id: bytes
    props: dict[str, Any]
    vectors: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as read; times in milliseconds since 1970."""

    id: bytes
    props: dict[str, Any]
    vectors: dict[str, bytes]
    created_ms: int
    updated_ms: int
    distance: float | None = None

    @property
    def uuid(self) -> str:
        """The canonical text of the id."""
        return format_uuid(self.id)


class WrongDimensionError(ValueError):
    """A vector has another length than those before it."""

    def __init__(self, got: int, expected: int) -> None:
        """Lengths in numbers of floats."""
        super().__init__(got, expected)
        self.got = got
        self.expected = expected
