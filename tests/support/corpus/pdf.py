"""A small PDF writer: text on pages, a title, no text at all, or a password."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
"""The fixed padding string of the standard security handler (ISO 32000-1, 7.6.3.3)."""


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out = bytearray()
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


class _Cipher:
    """The standard security handler, revision 2: RC4 with 40 bits, one password for user and owner."""

    def __init__(self, password: bytes, file_id: bytes) -> None:
        padded = (password + _PADDING)[:32]
        self.owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
        self.permissions = -4
        seed = padded + self.owner + self.permissions.to_bytes(4, "little", signed=True) + file_id
        self.key = hashlib.md5(seed).digest()[:5]
        self.user = _rc4(self.key, _PADDING)

    def encrypt(self, number: int, data: bytes) -> bytes:
        seed = self.key + number.to_bytes(3, "little") + b"\0\0"
        return _rc4(hashlib.md5(seed).digest()[:10], data)


def _literal(text: str) -> bytes:
    raw = text.encode("cp1252", "replace")
    for char in b"\\()":
        raw = raw.replace(bytes([char]), b"\\" + bytes([char]))
    return b"(" + raw + b")"


def _wrap(text: str, width: int = 90) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, line] if line else lines


def _page_content(paragraphs: Sequence[str]) -> bytes:
    out = [b"BT /F1 10 Tf 12 TL 50 800 Td"]
    for paragraph in paragraphs:
        out += [_literal(line) + b" Tj T*" for line in _wrap(paragraph)]
        out.append(b"T*")
    return b"\n".join([*out, b"ET"])


def build_pdf(title: str | None, pages: Sequence[Sequence[str]], *, password: str | None = None) -> bytes:
    """A PDF 1.4 whose pages hold paragraphs in Helvetica; a page without paragraphs shows only a box.

    Args:
        title: Goes into the document's information; None leaves it out.
        pages: One sequence of paragraphs per page, Latin letters only.
        password: Encrypts the file; nobody can read it without.
    """
    file_id = hashlib.md5(repr((title, pages)).encode()).digest()
    cipher = _Cipher(password.encode(), file_id) if password is not None else None
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for i, paragraphs in enumerate(pages):
        content = _page_content(paragraphs) if paragraphs else b"0.5 g 50 50 300 300 re f"
        number = 5 + 2 * i
        if cipher:
            content = cipher.encrypt(number, content)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {number} 0 R"
            f" /Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n".encode() + content + b"\nendstream")
    trailer = f"/Size {len(objects) + 1} /Root 1 0 R /ID [<{file_id.hex()}> <{file_id.hex()}>]".encode()
    if title is not None and cipher is None:
        objects.append(b"<< /Title " + _literal(title) + b" >>")
        trailer = trailer.replace(b"/Root", f"/Info {len(objects)} 0 R /Root".encode())
    if cipher:
        objects.append(
            f"<< /Filter /Standard /V 1 /R 2 /O <{cipher.owner.hex()}> /U <{cipher.user.hex()}>".encode()
            + f" /P {cipher.permissions} >>".encode()
        )
        trailer += f" /Encrypt {len(objects)} 0 R".encode()
    trailer = trailer.replace(trailer.split()[1], str(len(objects) + 1).encode(), 1)
    return _assemble(objects, trailer)


def _assemble(objects: Sequence[bytes], trailer: bytes) -> bytes:
    body = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    start = len(body)
    body += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    body += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    return bytes(body + b"trailer\n<< " + trailer + b" >>\nstartxref\n" + str(start).encode() + b"\n%%EOF\n")
