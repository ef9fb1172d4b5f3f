"""Microsoft compound files (OLE storage): the streams of the root, which tell what the file is and hold embedded files.

A reader of our own for MS-CFB: olefile also reads properties and writes, and a file of 100 lines needs no dependency.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

_MARKS = 0xFFFFFFFA
"""Sector numbers from here on are marks: end of chain, free, and those of tables."""

_ENTRY_BYTES = 128
_SMALL_BYTES = 4096
"""Streams shorter than this are in the small sectors."""


class CompoundFile:
    """The root storage of a compound file.

    Raises:
        ValueError: the file is damaged, cut short or no compound file.

    Cost: reads the sector tables and the directory; memory of about 1 % of the file.
    """

    def __init__(self, body: bytes) -> None:
        if not body.startswith(MAGIC) or len(body) < 512:
            raise ValueError("no compound file")
        self._body = memoryview(body)
        shift, small_shift = struct.unpack_from("<HH", body, 30)
        if shift not in (9, 12) or small_shift != 6:
            raise ValueError("sectors of an unknown size")
        self._sector = 1 << shift
        directory, first_small, first_more = struct.unpack_from("<I8xI4xI", body, 48)
        tables = [*struct.unpack_from("<109I", body, 76)]
        for _ in range(len(body) // self._sector):
            if first_more >= _MARKS:
                break
            *more, first_more = _unpack(self._read_sector(first_more))
            tables += more
        self._next = _unpack(b"".join(self._read_sector(table) for table in tables if table < _MARKS))
        self._directory = self._read_chain(directory)
        self._first_small = first_small
        self._entries = {name.upper(): place for name, place in self._list_root()}

    def __contains__(self, name: str) -> bool:
        """Whether the root has a stream or storage of this name, in any case."""
        return name.upper() in self._entries

    def read(self, name: str) -> bytes:
        """Return the content of a stream in the root. Raises ValueError: missing or damaged."""
        if name not in self:
            raise ValueError(f"no stream {name}")
        start, size = self._entries[name.upper()]
        if size >= _SMALL_BYTES:
            return self._read_chain(start)[:size]
        root_start, _ = struct.unpack_from("<II", self._directory, 116)
        small = self._read_chain(root_start)
        next_small = _unpack(self._read_chain(self._first_small))
        parts = [small[64 * place : 64 * place + 64] for place in _follow(start, next_small)]
        return b"".join(parts)[:size]

    def _read_sector(self, number: int) -> memoryview:
        start = (number + 1) * self._sector
        sector = self._body[start : start + self._sector]
        if len(sector) < self._sector:
            raise ValueError("cut short")
        return sector

    def _read_chain(self, start: int) -> bytes:
        return b"".join(self._read_sector(number) for number in _follow(start, self._next))

    def _list_root(self) -> list[tuple[str, tuple[int, int]]]:
        """Return name, first sector and size of each entry in the root, a tree of siblings."""
        entries = []
        seen = set[int]()
        stack = [struct.unpack_from("<I", self._directory, 76)[0]] if len(self._directory) >= _ENTRY_BYTES else []
        while stack:
            at = stack.pop() * _ENTRY_BYTES
            if at in seen or at + _ENTRY_BYTES > len(self._directory):
                continue
            seen.add(at)
            entry = self._directory[at : at + _ENTRY_BYTES]
            length, left, right = struct.unpack_from("<H2xII", entry, 64)
            name = entry[: max(0, min(length, 64) - 2)].decode("utf-16-le", "replace")
            entries.append((name, struct.unpack_from("<II", entry, 116)))
            stack += [left, right]
        return entries


def _unpack(table: bytes | memoryview) -> tuple[int, ...]:
    return struct.unpack(f"<{len(table) // 4}I", table)


def _follow(start: int, following: Sequence[int]) -> list[int]:
    """Return the numbers of a chain of sectors. Raises ValueError for one that never ends."""
    chain: list[int] = []
    while start < _MARKS:
        if start >= len(following) or len(chain) > len(following):
            raise ValueError("a chain of sectors is damaged")
        chain.append(start)
        start = following[start]
    return chain


def find_embedded(body: bytes) -> tuple[bytes, str] | None:
    """Return the file inside an embedded object, and its name if that is known; None for objects without a file.

    Office stores other Office files in a stream "Package", Acrobat its documents in "CONTENTS", and any other file with
    its name in "Ole10Native".
    """
    try:
        compound = CompoundFile(body)
        for name in ("Package", "CONTENTS"):
            if name in compound:
                return compound.read(name), ""
        return _unwrap(compound.read("\x01Ole10Native")) if "\x01Ole10Native" in compound else None
    except (ValueError, struct.error):
        return None


_OLE1_EMBEDDED = 2
_PACKAGED = b"\2\0"
"""How Windows begins a file of any type that it wraps in an object."""


def find_ole1_embedded(body: bytes) -> tuple[bytes, str]:
    """Return the file in an embedded object of OLE 1, as Rich Text has it, and its name if that is known.

    Source: MS-OLEDS 2.2.4 and 2.2.5. Raises ValueError for a linked or damaged object.
    """
    try:
        _, kind = struct.unpack_from("<II", body)
        at = 8
        for _ in range(3):  # class, topic, item
            (length,) = struct.unpack_from("<I", body, at)
            at += 4 + length
        (size,) = struct.unpack_from("<I", body, at)
    except struct.error:
        raise ValueError("damaged") from None
    native = body[at + 4 : at + 4 + size]
    if kind != _OLE1_EMBEDDED or not native:
        raise ValueError("linked, not embedded")
    if native.startswith(MAGIC):
        return find_embedded(native) or (native, "")
    if not native.startswith(_PACKAGED):
        return native, ""
    try:
        return _unwrap(b"\0\0\0\0" + native)  # without the size that precedes it in a stream
    except struct.error:
        raise ValueError("damaged") from None


def _unwrap(native: bytes) -> tuple[bytes, str]:
    """Return content and name of an "Ole10Native" stream (MS-OLEDS 2.3.6 and what Windows writes inside)."""
    label_end = native.index(b"\0", 6)
    path_end = native.index(b"\0", label_end + 1)
    (length,) = struct.unpack_from("<I", native, path_end + 5)
    at = path_end + 9 + length
    (size,) = struct.unpack_from("<I", native, at)
    return native[at + 4 : at + 4 + size], native[6:label_end].decode("latin-1")
