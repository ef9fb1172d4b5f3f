"""What a plain mail text contains besides words: files encoded in it, signatures, and lines broken for terminals."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

_UU_BEGIN = re.compile(rb"(?:\A|\n)begin [0-7]{3,4} ([^\r\n]++)\r?\n")
_Y_BEGIN = re.compile(rb"(?:\A|\n)=ybegin [^\r\n]*?name=([^\r\n]++)(?:\r?\n|\Z)(?:=ypart [^\r\n]*+(?:\r?\n|\Z))?")
_ARMOR = ("SIGNATURE", "PUBLIC KEY BLOCK", "MESSAGE")
_QUOTES = re.compile(r">*+")


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file in the text of a mail."""

    name: str
    content: bytes
    is_whole: bool


def take_files(content: bytes) -> tuple[bytes, list[EncodedFile]]:
    """Return a text without the files encoded in it (uuencode, yEnc), and the files, in order. Pure and linear."""
    files: list[EncodedFile] = []
    for begin, end, decode in ((_UU_BEGIN, b"\nend", _decode_uu), (_Y_BEGIN, b"\n=yend", _decode_y)):
        kept: list[bytes] = []
        at = 0
        while (start := begin.search(content, at)) is not None:
            stop = content.find(end, start.end() - 1)
            data = content[start.end() : stop if stop != -1 else len(content)]
            decoded, is_whole = decode(data)
            files.append(EncodedFile(start[1].decode("utf-8", "replace").strip(), decoded, is_whole and stop != -1))
            kept += (content[at : start.start()], b"\n")
            if stop == -1:
                at = len(content)
                break
            line = content.find(b"\n", stop + 1)
            at = line if line != -1 else len(content)
        if kept:
            content = b"".join([*kept, content[at:]])
    return content, files


def _decode_uu(data: bytes) -> tuple[bytes, bool]:
    out = []
    is_whole = True
    for line in data.splitlines():
        if not line.strip() or line[:1] == b"`":
            continue
        try:
            out.append(binascii.a2b_uu(line))
        except binascii.Error:  # wrong padding, by broken writers; the length is in the first character
            size = (((line[0] - 32) & 63) * 4 + 5) // 3
            try:
                out.append(binascii.a2b_uu(line[:size]))
            except binascii.Error:
                is_whole = False
    return b"".join(out), is_whole


_Y_CODE = bytes((byte - 42) % 256 for byte in range(256))
_Y_ESCAPE = re.compile(rb"=(.)", re.DOTALL)


def _decode_y(data: bytes) -> tuple[bytes, bool]:
    data = data.replace(b"\r", b"").replace(b"\n", b"")
    return _Y_ESCAPE.sub(lambda found: bytes([(found[1][0] - 64) % 256]), data).translate(_Y_CODE), True


def take_armor(text: str) -> tuple[str, bool]:
    """Return a text without signatures, keys and messages of PGP, and whether an encrypted message was among them."""
    is_encrypted = False
    for kind in _ARMOR:
        begin, end = f"-----BEGIN PGP {kind}-----", f"-----END PGP {kind}-----"
        kept: list[str] = []
        at = 0
        while (start := text.find(begin, at)) != -1 and (stop := text.find(end, start)) != -1:
            is_encrypted = is_encrypted or kind == "MESSAGE"
            kept.append(text[at:start])
            at = stop + len(end)
        text = "".join([*kept, text[at:]])
    return text, is_encrypted


def unwrap_flowed(text: str, *, without_space: bool) -> str:
    """Return a text of ``format=flowed`` (RFC 3676) with each paragraph on one line. Pure.

    Args:
        text: Lines; a space at the end continues a paragraph.
        without_space: Whether that space is no part of the text (``delsp=yes``), so that words are not divided.
    """
    out: list[str] = []
    depth: int | None = None
    """Depth of quotation of the paragraph that goes on; None when none does."""
    for line in text.splitlines():
        quotes = _QUOTES.match(line)
        assert quotes is not None
        level = quotes.end()
        rest = line[level:].removeprefix(" ")
        if depth == level:
            out.append(rest)
        else:
            out.append(("\n" if out else "") + "> " * level + rest)
        flows = rest.endswith(" ") and rest != "-- "
        depth = level if flows else None
        if flows and without_space:
            out[-1] = out[-1][:-1]
    return "".join(out)
