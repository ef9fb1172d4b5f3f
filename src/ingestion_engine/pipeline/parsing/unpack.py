"""Bounded decompression: limits the unpacked size of a file before any reader uses it."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator

from ingestion_engine.domain.errors import ObjectError

_STEP_BYTES = 1024 * 1024
"""Output per step; a decompression bomb is detected at most one step beyond the limit."""

_GZIP = 16 + zlib.MAX_WBITS


def _too_large(limit: int) -> ObjectError:
    return ObjectError(
        "decompressed_too_large",
        f"The object unpacks to more than {limit} bytes.",
        hint="Raise INGEST_WORKER__DECOMPRESSED_MAX_BYTES to read it.",
        limit_bytes=limit,
    )


def corrupt(what: str, detail: str) -> ObjectError:
    """Return the error for a file of a known type that cannot be read completely."""
    return ObjectError("corrupt_document", f"The {what} is damaged or cut short: {detail}.", kind=what)


def gunzip(body: bytes, limit: int) -> bytes:
    """Return the content of all members of a gzip file.

    Raises:
        ObjectError: ``decompressed_too_large`` beyond ``limit`` bytes; ``corrupt_document`` when the file is cut short
            or damaged.

    Cost: at most twice the memory of the content.
    """
    parts: list[bytes] = []
    size = 0
    rest = body
    while rest:
        stream = zlib.decompressobj(_GZIP)
        while not stream.eof:
            try:
                part = stream.decompress(rest, _STEP_BYTES)
            except zlib.error as error:
                raise corrupt("gzip file", str(error)) from error
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            if not part and not rest and not stream.eof:
                raise corrupt("gzip file", "it ends in the middle")
        rest = rest.lstrip(b"\0")  # padding by tapes and block devices
    return b"".join(parts)


class BoundedZip:
    """A zip archive in memory with a limit on the unpacked size of all members together.

    Args:
        body: Bytes of the archive.
        limit: Maximum number of unpacked bytes; counted while unpacking, because declared sizes may be wrong.
        what: Description of the archive for error messages ("Word document").
    """

    def __init__(self, body: bytes, limit: int, what: str) -> None:
        self._limit = limit
        self._left = limit
        self.what = what
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(body))
        except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
            raise corrupt(what, str(error)) from error
        self.names = self._archive.namelist()
        if any(info.flag_bits & 1 for info in self._archive.infolist()):
            raise ObjectError("encrypted_document", f"The {what} is encrypted with a password.", kind=what)

    def read(self, name: str) -> bytes:
        """Return one member's bytes. Raises ObjectError: ``decompressed_too_large``, ``corrupt_document``."""
        return b"".join(self._unpack(name))

    def check(self) -> None:
        """Unpack every member and discard it, to protect libraries that unpack without a limit of their own."""
        for name in self.names:
            for _ in self._unpack(name):
                pass
        self._left = self._limit

    def _unpack(self, name: str) -> Iterator[bytes]:
        try:
            with self._archive.open(name) as member:
                while part := member.read(_STEP_BYTES):
                    self._left -= len(part)
                    if self._left < 0:
                        raise _too_large(self._limit)
                    yield part
        except KeyError:
            raise corrupt(self.what, f"{name} is missing") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise corrupt(self.what, f"{name}: {error}") from error
