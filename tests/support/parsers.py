"""Functions for parser processes that hang, crash or need memory, as hostile documents make libraries do."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from pathlib import Path

from ingestion_engine.pipeline.parsing.body import Body
from ingestion_engine.pipeline.spool import SpooledText


def answer(value: object) -> object:
    """Return the value."""
    return value


def wait_for_file(begun: str, path: str) -> int:
    """Make one file, and return this process's id when the other one exists."""
    Path(begun).touch()
    for _ in range(1200):
        if Path(path).exists():
            return os.getpid()
        time.sleep(0.05)
    raise AssertionError("nobody made the file")


def hang_with_the_interpreter_lock(marker: str = "") -> None:
    """Make a file, then never return, and let no other thread of the process run: a pattern that backtracks."""
    if marker:
        Path(marker).touch()
    re.match(r"(?:a|aa)+$", "a" * 60 + "b")


def crash() -> None:
    """End as a library that reads outside its memory."""
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_once(marker: str) -> str:
    """Crash in the first process that is asked."""
    if not Path(marker).exists():
        Path(marker).touch()
        crash()
    return "survived"


def exhaust() -> None:
    """Raise what Python raises when an allocation fails."""
    raise MemoryError


def grow(size: int) -> int:
    """Touch this many bytes; return this process's id."""
    ctypes.memset(ctypes.create_string_buffer(size), 1, size)
    return os.getpid()


def process_id() -> int:
    """Return this process's id."""
    return os.getpid()


def raise_unexpectedly() -> None:
    """Raise an exception that cannot be pickled."""

    class LocalError(Exception):
        pass

    raise LocalError("a defect")


def upper(body: Body) -> SpooledText:
    """Return the text of a body in capitals, in a file of its own."""
    return SpooledText(piece.decode().upper() for piece in body.pieces())


def secrets() -> list[str]:
    """Return the names of this process's variables that look like secrets or settings."""
    return [name for name in os.environ if name.startswith(("INGEST_", "AWS_"))]
