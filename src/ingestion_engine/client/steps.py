"""What methods of a client are made of: steps, which a blocking and an asynchronous channel perform in their own way.

A method is a generator. It yields steps, receives their results (or the exception of ``httpx``), and returns its own
result; a method that is iterated yields its items as ``Emit``. So every method is written once, and does no I/O itself.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Request:
    """A request of one route."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    """Query; entries that are None are left out."""
    json: Any = None
    """Body; None means that there is none."""
    headers: Mapping[str, str] | None = None
    repeatable: bool = False
    """True when sending it twice does no more than sending it once."""
    read_timeout_s: float | None = None
    """Seconds without a byte after which it fails; None means the client's time-out."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request; the result is the response, read to its end."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request; the result is the response, of which only the head is read when it has success."""

    request: Request


@dataclass(frozen=True, slots=True)
class Read:
    """Wait for the next bytes of the opened response; the result is None at its end."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the opened response, if there is one."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait for a number of seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit(Generic[T_co]):
    """Give an item to the caller."""

    item: T_co


Step: TypeAlias = Send | Open | Read | Close | Sleep
Steps: TypeAlias = Generator[Step, Any, T]
"""Steps of a method that returns a value."""
Items: TypeAlias = Generator[Step | Emit[T], Any, None]
"""Steps of a method that is iterated."""
