"""Run parsers in processes of their own, which can be killed: a parser that hangs or crashes costs its object alone.

A thread that never ends cannot be stopped, may hold the interpreter's lock, and takes its whole worker along when it
crashes or needs too much memory. See docs/decisions/0021.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from ingestion_engine.domain.errors import ObjectError, ParserDied, TransientError
from ingestion_engine.pipeline.parsing.process.messages import receive, send
from ingestion_engine.runtime.telemetry import get_logger

T = TypeVar("T")

AT_ONCE: Final = 2
"""Objects parsed concurrently by one worker process, and so its parser processes; it bounds memory."""

START_S: Final = 60.0
"""Seconds that a parser process may take to start; it needs 0.3 s on an idle machine."""

TRIES: Final = 2
"""Parser processes that an object may end before it has failed: the first may have been killed for its memory, of which
an earlier object has a share."""

GROW_AFTER_S: Final = 0.5
"""Seconds that an object waits for a busy parser process before another one starts. One reads hundreds of usual objects
per second, more than embedders take, and a start costs 0.3 s of processor time."""

KEPT_BYTES: Final = 192 * 1024 * 1024
"""A parser process that has needed this much memory more than at its start is replaced, which returns the memory."""

log = get_logger(__name__)


async def run_parse(function: Callable[..., T], *arguments: Any, timeout_s: float) -> T:
    """Return the result of a module's function, called in a parser process without blocking the event loop.

    Args:
        function: Function that a parser process can import.
        arguments: Its arguments, picklable; a ``SpooledBody`` is passed without copying it.
        timeout_s: Time limit in seconds, after which the parser process is killed.

    Raises:
        ObjectError: "parse_timeout"; ``ParserDied``; and errors of the function.
        TransientError: "parser_unavailable": no parser process can be started.

    Cost: 0.5 ms and a copy of arguments and result; the first call in a process 0.3 s of a parser process's start.
    """
    async with _slots():
        parse = _Parse(function, arguments, timeout_s)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        def work() -> None:
            parse.run()  # never raises
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits for the result
                loop.call_soon_threadsafe(settle)

        around = contextvars.copy_context()  # the partition that log lines name
        threading.Thread(target=around.run, args=(work,), name="parse", daemon=True).start()
        try:
            await done
        except asyncio.CancelledError:
            parse.cancel()
            raise
        result: T = parse.result()
        return result


class _Parse:
    """One call, which its thread makes in a parser process."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float) -> None:
        self._call = function, arguments, timeout_s
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._canceled = False
        self._outcome: tuple[Any, BaseException | None] = (None, None)

    def run(self) -> None:
        """Make the call. Never raises."""
        try:
            self._outcome = self._try()
        except BaseException as error:  # the caller's thread raises it
            self._outcome = (None, error)

    def cancel(self) -> None:
        """End the parser process, whatever it is doing."""
        with self._lock:
            self._canceled = True
            if self._process is not None:
                self._process.kill()

    def result(self) -> Any:
        """Return the result of the call, or raise its error."""
        value, error = self._outcome
        if error is not None:
            raise error
        return value

    def _try(self) -> tuple[Any, BaseException | None]:
        exit_text = ""
        for number in range(TRIES):
            # An idle process may have been killed just now, which nobody can see yet; a new one has not.
            with self._taken(new=number > 0) as process:
                try:
                    return process.call(self._call)
                except TimeoutError:
                    raise ObjectError(
                        "parse_timeout",
                        f"Parsing took longer than {self._timeout_s:g} s.",
                        hint="Raise INGEST_WORKER__PARSE_TIMEOUT_S, or exclude the object.",
                        timeout_s=self._timeout_s,
                    ) from None
                except (EOFError, OSError):
                    exit_text = process.describe_exit()
                    log.warning("a parser process ended", extra={"exit": exit_text})
        raise ParserDied(
            "parser_died",
            f"Reading the object ended its parser process {TRIES} times ({exit_text}).",
            hint="Check the memory of the workers, or exclude the object.",
        )

    @contextlib.contextmanager
    def _taken(self, *, new: bool) -> Iterator[_Process]:
        """Yield a parser process that is ready; it serves others afterwards only if the call was answered."""
        process = _pool.take(new=new)
        try:
            with self._lock:
                if self._canceled:
                    raise TransientError("parse_canceled", "The parse was canceled.")
                self._process = process
            process.wait_ready()
            yield process
        finally:
            with self._lock:
                self._process = None
            _pool.give_back(process)


class _Process:
    """A parser process, and the socket to it."""

    def __init__(self) -> None:
        from ingestion_engine.runtime.settings import plain_environment  # slow, and loaded here in any case

        ours, theirs = socket.socketpair()
        command = f"from ingestion_engine.pipeline.parsing.process.main import main; main({theirs.fileno()})"
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109 - entries are strings
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a command of this module
                    [sys.executable, "-c", command],
                    env={**plain_environment(), "PYTHONPATH": path},
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # Spark's Python processes speak to the JVM there
                )
            except OSError as error:
                ours.close()
                raise _unavailable(str(error)) from error
        self._connection = ours
        self._is_ready = False
        self._start_bytes = 0
        self._started_at = time.monotonic()
        self.is_usable = True
        """False once it may not serve another call."""

    @property
    def is_running(self) -> bool:
        """False once the process has ended."""
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Return when the process has started. Raises TransientError."""
        if self._is_ready:
            return
        self._connection.settimeout(max(0.1, self._started_at + START_S - time.monotonic()))
        try:
            self._start_bytes = receive(self._connection)
        except (EOFError, OSError) as error:  # a TimeoutError is an OSError
            self.kill()
            reason = "it did not answer" if isinstance(error, TimeoutError) else self.describe_exit()
            raise _unavailable(reason) from error
        self._is_ready = True

    def call(self, call: tuple[Callable[..., Any], tuple[Any, ...], float]) -> tuple[Any, BaseException | None]:
        """Return the result and the error of a call. Raises TimeoutError, EOFError and OSError; the process is gone."""
        self.is_usable = False
        try:
            self._connection.settimeout(call[2])
            send(self._connection, call)
            value, error, peak_bytes = receive(self._connection)
        except BaseException:
            self.kill()
            raise
        if isinstance(error, MemoryError):
            self.kill()
            message = "The parser ran out of memory."
            return None, ObjectError(
                "parse_failed", message, hint="Give the workers more memory, or exclude the object."
            )
        self.is_usable = peak_bytes - self._start_bytes < KEPT_BYTES
        return value, error

    def kill(self) -> None:
        """End the process at once. Idempotent."""
        self.is_usable = False
        self._process.kill()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for an answer

    def close(self) -> None:
        """End the process and release its resources."""
        self.kill()
        self._process.wait()
        self._connection.close()

    def describe_exit(self) -> str:
        """Return how the process ended, as text for users."""
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit status {code}"


def _unavailable(reason: str) -> TransientError:
    return TransientError(
        "parser_unavailable",
        f"The worker cannot start a parser process: {reason}.",
        hint="Check the worker's memory and its limit of processes.",
    )


class _Pool:
    """The parser processes of this process. A second one starts only when the first is busy for long."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = 0
        self.idle: list[_Process] = []

    def take(self, *, new: bool = False) -> _Process:
        """Return an idle process, or a new one in place of all idle ones. Blocking. Raises TransientError."""
        with self._changed:
            self._changed.wait_for(lambda: self.idle or not self._busy or new, GROW_AFTER_S)
            self._busy += 1
            while self.idle:
                process = self.idle.pop()
                if process.is_running and not new:
                    return process
                process.close()  # killed while it had nothing to do, which is no fault of the next object
        try:
            return _Process()
        except BaseException:
            with self._changed:
                self._busy -= 1
            raise

    def give_back(self, process: _Process) -> None:
        """Keep a process for the next call if it is usable, else end it."""
        if not process.is_usable:
            process.close()
        with self._changed:
            self._busy -= 1
            if process.is_usable:
                self.idle.append(process)
            self._changed.notify()

    def warm(self) -> None:
        """Have at least one process."""
        with self._changed:
            if not self.idle and not self._busy:
                self.idle.append(_Process())

    def close(self) -> None:
        """End the idle processes."""
        with self._changed:
            idle, self.idle = self.idle, []
        for process in idle:
            process.close()


_pool = _Pool()


def warm_parsers() -> None:
    """Start a parser process, so that the first parse finds it ready. Does not wait. Raises TransientError."""
    _pool.warm()


def close_parsers() -> None:
    """End the idle parser processes of this process. Idempotent."""
    _pool.close()


_SLOTS: dict[int, asyncio.Semaphore] = {}


def _slots() -> asyncio.Semaphore:
    """Return the running loop's semaphore. A worker has one loop for its lifetime; every test has its own."""
    loop = id(asyncio.get_running_loop())
    if loop not in _SLOTS:
        _SLOTS.clear()
        _SLOTS[loop] = asyncio.Semaphore(AT_ONCE)
    return _SLOTS[loop]
