"""The content of messages that are signed and not encrypted (CMS, RFC 5652); the signature is not verified."""

from __future__ import annotations

_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_MOST_NESTED = 8
"""Levels of strings inside one another; the format has one or two."""


class _DamagedError(ValueError):
    pass


_Value = tuple[int, int, int, int]
"""Tag, start and end of the content, end of the value."""


def open_signed(data: bytes) -> bytes | None:
    """Return the content of signed data; None for other data: encrypted, compressed, damaged. Pure and linear."""
    try:
        content_type, content = _children(data, _find(data, 0, len(data)))[:2]
        if data[content_type[1] : content_type[2]] != _SIGNED_DATA:
            return None
        signed = _children(data, content)[0]
        inner = _children(data, signed)[2]
        _, wrapped = _children(data, inner)[:2]
        return b"".join(_strings(data, _children(data, wrapped)[0], 0))
    except (IndexError, ValueError, RecursionError):
        return None


def _find(data: bytes, at: int, end: int) -> _Value:
    """Return the value at a place: tag, start and end of its content, its end."""
    if at + 2 > end:
        raise _DamagedError
    tag, size = data[at], data[at + 1]
    start = at + 2
    if size == 0x80:  # ends with two zero bytes
        inside = start
        while data[inside : inside + 2] != b"\0\0":
            inside = _find(data, inside, end)[3]
        return tag, start, inside, inside + 2
    if size > 0x80:
        count = size & 0x7F
        size = int.from_bytes(data[start : start + count], "big")
        start += count
    if start + size > end:
        raise _DamagedError
    return tag, start, start + size, start + size


def _children(data: bytes, value: _Value) -> list[_Value]:
    out: list[_Value] = []
    at = value[1]
    while at < value[2] and len(out) < 1_000_000:
        child = _find(data, at, value[2])
        out.append(child)
        at = child[3]
    return out


def _strings(data: bytes, value: _Value, depth: int) -> list[bytes]:
    """Return the pieces of a string of bytes, which may be strings themselves."""
    if not value[0] & 0x20:
        return [data[value[1] : value[2]]]
    if depth > _MOST_NESTED:
        raise _DamagedError
    return [piece for child in _children(data, value) for piece in _strings(data, child, depth + 1)]
