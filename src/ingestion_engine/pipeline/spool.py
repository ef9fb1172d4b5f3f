"""Spool: what is too large for memory waits in temporary files, which have no name and end with their process.

They lie where ``tempfile`` puts files (``TMPDIR``). An object of n bytes of text takes up to twice that, and its
embedded chunks their text and four bytes per dimension each.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO, TypeVar, cast

from ingestion_engine.domain.errors import TransientError

T = TypeVar("T")

LARGE_BYTES = 32 * 1024 * 1024
"""Objects over this go through temporary files where their format can be read in pieces. Whole, a text of this size and
its vectors of 1,536 dimensions are about 300 MB; a file costs about 2 % more time."""

PIECE_BYTES = 1024 * 1024
"""Read at once; more is not faster."""


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Raise the operating system's errors as ours.

    Nothing was written to any store when one comes up: another worker, or this one with more room, does it all.
    """
    try:
        yield
    except OSError as error:
        raise TransientError(
            "temp_files_failed",
            f"A temporary file in {tempfile.gettempdir()} failed: {error.strerror or error}.",
            hint="Make room there, or set TMPDIR for the workers to a larger disk.",
        ) from error


async def next_items(items: Iterator[T], most: int | None) -> list[T]:
    """Return the next items, at most so many, read in a thread; None means all that are left, from memory."""
    if most is None:
        return list(items)
    return await asyncio.to_thread(lambda: list(islice(items, most)))


class TempFile:
    """A file without a name; closed, and so gone, with the last reference to it."""

    def __init__(self) -> None:
        with disk_errors():
            self.file = cast("BinaryIO", tempfile.TemporaryFile(buffering=PIECE_BYTES))  # noqa: SIM115 - it lives as long as its owner
        weakref.finalize(self, self.file.close)


class SpooledBody(TempFile):
    """An object's bytes (a ``Body``). Write to ``file`` first, then read."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        with disk_errors():
            return self.file.seek(0, 2)

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer where the body ends before."""
        with disk_errors():
            self.file.seek(start)
            return self.file.read(length)

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Yield everything from ``start`` on, ``PIECE_BYTES`` at a time."""
        while piece := self.read(start, PIECE_BYTES):
            yield piece
            start += len(piece)


class SpooledText:
    """A text as UTF-8 in a temporary file."""

    def __init__(self, pieces: Iterable[str]) -> None:
        """Write the text. Raises TransientError ("temp_files_failed"), and what ``pieces`` raises."""
        self._body = SpooledBody()
        for piece in pieces:
            with disk_errors():
                self._body.file.write(piece.encode())

    def pieces(self) -> Iterator[str]:
        """Yield the text in order, in pieces of any length."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for piece in self._body.pieces():
            yield decoder.decode(piece)
