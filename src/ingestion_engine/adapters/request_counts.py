"""Counts the requests that a piece of work makes to other systems, and the time they take.

The counts belong to the context: tasks and ``asyncio.to_thread`` calls that the work creates count for it, and work
that runs at the same time in the same process has counts of its own.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from ingestion_engine.domain.errors import ObjectError

SYSTEMS: Final = {"ollama": "embedder", "gateway": "embedder"}
"""Name under which a service counts, where it is another one: jobs use one or the other."""


@dataclass(slots=True)
class SystemRequests:
    """Requests to one system."""

    done: int = 0
    """Those that were answered, also by a refusal of the object that they were about."""
    failed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class RequestCounts:
    """Requests by system."""

    of_system: dict[str, SystemRequests] = field(default_factory=dict)

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return the counts as JSON types, seconds rounded to a tenth of a millisecond."""
        return {
            name: {"done": one.done, "failed": one.failed, "seconds": round(one.seconds, 4)}
            for name, one in sorted(self.of_system.items())
        }


class Seen:
    """How a request ended."""

    __slots__ = ("failed",)

    def __init__(self) -> None:
        self.failed = False
        """Set by the caller for a response that is a failure."""


_current: contextvars.ContextVar[RequestCounts | None] = contextvars.ContextVar("request_counts", default=None)


@contextmanager
def count_requests() -> Iterator[RequestCounts]:
    """Return the counts of the requests that are made in the ``with`` block."""
    counts = RequestCounts()
    token = _current.set(counts)
    try:
        yield counts
    finally:
        _current.reset(token)


@contextmanager
def counted(service: str) -> Iterator[Seen]:
    """Count the ``with`` block as one request to a service; one that is canceled does not count.

    Cost: some microseconds.
    """
    counts = _current.get()
    seen = Seen()
    if counts is None:
        yield seen
        return
    began = time.perf_counter()
    try:
        yield seen
    except ObjectError:  # an answer about the object
        _add(counts, service, began, failed=False)
        raise
    except Exception:  # raised again: only counted here
        _add(counts, service, began, failed=True)
        raise
    else:
        _add(counts, service, began, failed=seen.failed)


def _add(counts: RequestCounts, service: str, began: float, *, failed: bool) -> None:
    one = counts.of_system.setdefault(SYSTEMS.get(service, service), SystemRequests())
    one.seconds += time.perf_counter() - began
    if failed:
        one.failed += 1
    else:
        one.done += 1
