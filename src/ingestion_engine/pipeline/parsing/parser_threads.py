"""Run parsers in threads: few at a time, with a time limit that also holds for a parser that hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ingestion_engine.domain.errors import ObjectError, TransientError

T = TypeVar("T")

OnStart = Callable[[Callable[[], None]], None]
"""Receives, when a parser starts, the function that asks it to stop."""

_AT_ONCE = 2
"""Objects parsed concurrently in one process. Python code gains nothing from more, and it bounds memory."""

MAX_ABANDONED = 4
"""Timed-out parses that may still run; a process with this many does not parse until one ends."""


async def run_parse(work: Callable[[OnStart], T], timeout_s: float) -> T:
    """Return the result of ``work``, run in a thread of its own without blocking the event loop.

    Raises:
        ObjectError: ``parse_timeout``, and errors of ``work``.
        TransientError: ``parser_stuck``: too many timed-out parses still run in this process; another process may
            succeed.
    """
    async with _slots():
        if Parse.abandoned >= MAX_ABANDONED:
            raise TransientError("parser_stuck", f"{Parse.abandoned} timed-out parses still run in this process.")
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
                hint="Raise INGEST_WORKER__PARSE_TIMEOUT_S, or exclude the object.",
                timeout_s=timeout_s,
            ) from None
        except asyncio.CancelledError:
            parse.abandon()
            raise


_SLOTS: dict[int, asyncio.Semaphore] = {}


def _slots() -> asyncio.Semaphore:
    """Return the running loop's semaphore. A worker has one loop for its lifetime; every test has its own."""
    loop = id(asyncio.get_running_loop())
    if loop not in _SLOTS:
        _SLOTS.clear()
        _SLOTS[loop] = asyncio.Semaphore(_AT_ONCE)
    return _SLOTS[loop]


@dataclass(slots=True)
class _Stop:
    """Whether the parse was abandoned, and how to ask the library to stop."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    cancel: Callable[[], None] | None = None
    abandoned: bool = False
    ended: bool = False


class Parse(Generic[T]):
    """One parse in its own daemon thread: a hanging thread of a pool would prevent the process from exiting."""

    abandoned = 0
    _count_lock = threading.Lock()

    def __init__(self, work: Callable[[OnStart], T], loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[T] = loop.create_future()
        self._work, self._loop = work, loop
        self._stop = _Stop()

    def run(self) -> None:
        """Parse, and pass the result or the error to the loop."""
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
        except RuntimeError:  # the loop is closed: nothing waits for the result
            return

    def abandon(self) -> None:
        """Stop waiting; the thread is counted until it ends."""
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
