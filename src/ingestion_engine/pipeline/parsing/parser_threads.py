"""The threads that parsers run in: few at a time, with a time limit that a hanging parser cannot break."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ingestion_engine.domain.errors import ObjectError, TransientError

T = TypeVar("T")

OnStart = Callable[[Callable[[], None]], None]
"""How a parser says that it has begun and how to ask it for an end."""

_AT_ONCE = 2
"""Objects parsed at the same time in one process. Python code gains nothing by more, and memory is bounded by it."""

MAX_ABANDONED = 4
"""Parses that may go on after their time-out; a process with more of them does not parse any further until one ends."""


async def run_parse(work: Callable[[OnStart], T], timeout_s: float) -> T:
    """Return what ``work`` returns in a thread of its own; the event loop stays free.

    Raises:
        ObjectError: ``parse_timeout``, and what ``work`` raises.
        TransientError: ``parser_stuck``: too many timed-out parses still run in this process; another process may do
            better.
    """
    async with _slots():
        if Parse.abandoned >= MAX_ABANDONED:
            raise TransientError(
                "parser_stuck", f"{Parse.abandoned} parses of this process did not end in time and still run."
            )
        parse = Parse(work, asyncio.get_running_loop())
        threading.Thread(target=parse.run, name="parse", daemon=True).start()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(parse.future)
        except TimeoutError:
            parse.abandon()
            raise ObjectError(
                "parse_timeout",
                f"Parsing took longer than {timeout_s:g} s.",
                hint="Raise INGEST_WORKER__PARSE_TIMEOUT_S if the object is worth it.",
                timeout_s=timeout_s,
            ) from None
        except asyncio.CancelledError:
            parse.abandon()
            raise


_SLOTS: dict[int, asyncio.Semaphore] = {}


def _slots() -> asyncio.Semaphore:
    """The running loop's semaphore. A worker has one loop for its whole life; tests have one each."""
    loop = id(asyncio.get_running_loop())
    if loop not in _SLOTS:
        _SLOTS.clear()
        _SLOTS[loop] = asyncio.Semaphore(_AT_ONCE)
    return _SLOTS[loop]


@dataclass(slots=True)
class _Stop:
    """Whether the parse was given up, and how to ask the library for an end."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    cancel: Callable[[], None] | None = None
    abandoned: bool = False
    ended: bool = False


class Parse(Generic[T]):
    """One parse in a daemon thread of its own: a pool's thread that hangs would keep the process from ending."""

    abandoned = 0
    _count_lock = threading.Lock()

    def __init__(self, work: Callable[[OnStart], T], loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[T] = loop.create_future()
        self._work, self._loop = work, loop
        self._stop = _Stop()

    def run(self) -> None:
        """Parse and hand the outcome to the loop, whatever it is."""
        outcome: T | BaseException
        try:
            outcome = self._work(self._on_start)
        except BaseException as error:
            outcome = error
        with self._stop.lock:
            self._stop.ended = True
            if self._stop.abandoned:
                with Parse._count_lock:
                    Parse.abandoned -= 1
                return
        try:
            self._loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def abandon(self) -> None:
        """Wait no longer; the thread is counted until it ends."""
        with self._stop.lock:
            if self._stop.ended:
                return
            self._stop.abandoned = True
            with Parse._count_lock:
                Parse.abandoned += 1
        if self._stop.cancel is not None:
            self._stop.cancel()

    def _on_start(self, cancel: Callable[[], None]) -> None:
        self._stop.cancel = cancel

    def _settle(self, outcome: T | BaseException) -> None:
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
