"""Spool: content too large for memory is kept in temporary files, which have no name and end with their process.

They are created where ``tempfile`` puts files (``TMPDIR``). An object of n bytes of text takes up to 2n bytes, and each
embedded chunk its text and four bytes per dimension.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from ingestion_engine.domain.errors import TransientError

LARGE_BYTES = 32 * 1024 * 1024
"""Larger objects go through temporary files if their format can be read in pieces. In memory, a text of this size and
its vectors of 1,536 dimensions take about 300 MB; a file costs about 2 % more time."""

PIECE_BYTES = 1024 * 1024
"""Bytes read at once; more is not faster."""


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Raise the operating system's errors as TransientError.

    Nothing of the object is in any store yet: a rerun, on another worker or with more disk space, completes it.
    """
    try:
        yield
    except OSError as error:
        raise TransientError(
            "temp_files_failed",
            f"A temporary file in {tempfile.gettempdir()} failed: {error.strerror or error}.",
            hint="Free space there, or set TMPDIR of the workers to a larger disk.",
        ) from error


class TempFile:
    """A file without a name; it is closed, and thereby removed, with the last reference to it."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        with disk_errors():
            self.file = file or cast("BinaryIO", tempfile.TemporaryFile(buffering=PIECE_BYTES))  # noqa: SIM115 - the owner closes it
        weakref.finalize(self, self.file.close)


class SpooledBody(TempFile):
    """An object's bytes, as a ``Body``. Write to ``file`` first, then read; two processes may read at the same time."""

    @classmethod
    def adopt(cls, descriptor: int) -> SpooledBody:
        """Return the body of another process, by the descriptor that it has sent."""
        return cls(os.fdopen(descriptor, "r+b", buffering=PIECE_BYTES))

    def share(self) -> int:
        """Return the descriptor of the file, to be sent to another process, with all that was written."""
        with disk_errors():
            self.file.flush()
        return self.file.fileno()

    @property
    def size(self) -> int:
        """Number of bytes."""
        with disk_errors():
            return os.fstat(self.share()).st_size

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer at the end of the body."""
        with disk_errors():
            return os.pread(self.share(), length, start)  # processes share the position of the file

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes from ``start`` on, ``PIECE_BYTES`` at a time."""
        while piece := self.read(start, PIECE_BYTES):
            yield piece
            start += len(piece)


class SpooledText:
    """A text as UTF-8 in a temporary file."""

    def __init__(self, pieces: Iterable[str]) -> None:
        """Write the text. Raises TransientError ("temp_files_failed"), and errors of ``pieces``."""
        self._body = SpooledBody()
        self.chars = 0
        """Length of the text in characters."""
        for piece in pieces:
            self.chars += len(piece)
            with disk_errors():
                self._body.file.write(piece.encode())

    def pieces(self) -> Iterator[str]:
        """Yield the text in order, in pieces of any length."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for piece in self._body.pieces():
            yield decoder.decode(piece)
