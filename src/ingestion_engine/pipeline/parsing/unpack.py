"""Bounded decompression: limits the unpacked size of a file before any reader uses it."""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ReadWarning

_STEP_BYTES = 1024 * 1024
"""Output per step; a decompression bomb is detected at most one step beyond the limit."""

_GZIP = 16 + zlib.MAX_WBITS

ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, ValueError, struct.error,
    RuntimeError,
)  # fmt: skip
"""What the standard library raises for archives that are damaged or compressed in a way that it does not know."""

_PICTURES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".gif", ".bmp", ".tif", ".tiff", ".emf", ".wmf", ".emz", ".wmz", ".svg", ".webp",
    ".heic", ".avif", ".wdp", ".ico", ".pict", ".pct", ".pcx", ".eps",
)  # fmt: skip


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

    Members are found as Office and e-book readers find them: a backslash in a name is a slash, letters match in either
    case if no name is the same, and the last of several members of one name counts.

    Args:
        body: Bytes of the archive.
        limit: Maximum number of unpacked bytes; counted while unpacking, because declared sizes may be wrong.
        what: Description of the archive for error messages ("Word document").

    Raises:
        ObjectError: ``corrupt_document`` for an archive without its directory, ``encrypted_document``.
    """

    def __init__(self, body: bytes, limit: int, what: str) -> None:
        self._limit = limit
        self._left = limit
        self.what = what
        self._unpacked: set[str] = set()
        """Names of members whose size is counted; reading one again does not count."""
        self._archive = open_zip(body, what)
        self._members = list_members(self._archive)
        self._folded = {name.lower(): name for name in reversed(self._members)}
        self.names = tuple(self._members)
        """Names of the members, each once, in the order of the archive, without folders."""
        if any(info.flag_bits & 1 for info in self._members.values()):
            raise ObjectError("encrypted_document", f"The {what} is encrypted with a password.", kind=what)

    def find(self, name: str) -> str | None:
        """Return the name of the member as stored, upper and lower case ignored; None if it does not exist."""
        return name if name in self._members else self._folded.get(name.lower())

    def read(self, name: str) -> bytes:
        """Return one member's bytes. Raises ObjectError: ``decompressed_too_large``, ``corrupt_document``."""
        return b"".join(self.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield one member's bytes in pieces. Raises as ``read``, also between two pieces."""
        found = self.find(name)
        if found is None:
            raise corrupt(self.what, f"{name} is missing")
        is_new = found not in self._unpacked
        self._unpacked.add(found)
        try:
            with self._archive.open(self._members[found]) as member:
                while part := member.read(_STEP_BYTES):
                    self._left -= len(part) if is_new else 0
                    if self._left < 0:
                        raise _too_large(self._limit)
                    yield part
        except ZIP_ERRORS as error:
            raise corrupt(self.what, f"{name}: {error}") from error

    def check(self) -> tuple[ReadWarning, ...]:
        """Unpack and discard every member not read before, and return a warning for each damaged one.

        It also protects libraries that unpack without a limit of their own. A damaged part of the text fails when the
        reader reads it; a damaged picture, font or preview does not.

        Raises:
            ObjectError: ``decompressed_too_large``.
        """
        warnings = []
        for name in self.names:
            if name in self._unpacked:
                continue
            try:
                for _ in self.pieces(name):
                    pass
            except ObjectError as error:
                if error.code != "corrupt_document":
                    raise
                code = "picture_unreadable" if name.lower().endswith(_PICTURES) else "part_unreadable"
                warnings.append(ReadWarning(code, detail=f"{name} is damaged."))
        return tuple(warnings)


def open_zip(body: bytes, what: str) -> zipfile.ZipFile:
    """Return an archive by the directory at its end. Raises ObjectError: ``corrupt_document``."""
    try:
        return zipfile.ZipFile(io.BytesIO(body))
    except ZIP_ERRORS as error:
        raise corrupt(what, str(error)) from error


def list_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name, without folders; the last of several of one name counts. Pure."""
    members = {info.filename.replace("\\", "/").lstrip("/"): info for info in archive.infolist()}
    return {name: info for name, info in members.items() if name and not name.endswith("/")}
