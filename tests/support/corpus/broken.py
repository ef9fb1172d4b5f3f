"""Files that must fail, each with the code it must fail with."""

from __future__ import annotations

import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

from support.corpus.formats import build_docx, build_gzip, build_rtf, build_xml, build_zip
from support.corpus.pdf import build_pdf

_SECTIONS = (("Findings", ("The first paragraph of a report that will not be read.", "And the second one.")),)
_STEP = b"\0" * (1 << 20)


def build_png() -> bytes:
    """A whole image of one grey pixel."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0\x80")) + part(b"IEND", b"")


def build_mp4_head() -> bytes:
    """The beginning of a film, enough to be known as one."""
    return struct.pack(">I", 24) + b"ftypisom\0\0\2\0isomiso2" + struct.pack(">I", 1008) + b"mdat" + bytes(1000)


def build_noise(size_bytes: int, seed: int) -> bytes:
    """Random bytes that begin like nothing known."""
    return b"\x02\x03" + random.Random(seed).randbytes(size_bytes - 2)


def build_encrypted_ooxml(seed: int) -> bytes:
    """A compound file with the two streams that Office writes when a document has a password."""
    return build_compound(
        {
            "EncryptionInfo": b"\4\0\4\0\x40\0\0\0" + b"<encryption/>".ljust(4088),
            "EncryptedPackage": build_noise(8192, seed),
        }
    )


def build_compound(streams: dict[str, bytes]) -> bytes:
    """A compound file of at most 60 KiB with at most three streams in its root, filled with zeros to 4 KiB or more."""
    sector, free, end = 512, 0xFFFFFFFF, 0xFFFFFFFE
    table = [0xFFFFFFFD, end]
    entries = [_directory_entry("Root Entry", 5, child=1, start=end, size=0)]
    data = b""
    for i, (name, short) in enumerate(streams.items(), 1):
        content = short.ljust(max(4096, -(-len(short) // sector) * sector), b"\0")
        first, count = len(table), len(content) // sector
        table += [*range(first + 1, first + count), end]
        entries.append(
            _directory_entry(name, 2, start=first, size=len(content), right=i + 1 if i < len(streams) else free)
        )
        data += content
    entries += [bytes(128)] * (4 - len(entries))
    table += [free] * (sector // 4 - len(table))
    header = (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
        + struct.pack("<IIIIIIIII", 0, 1, 1, 0, 4096, end, 0, end, 0) + struct.pack("<I", 0) + b"\xff" * (108 * 4)
    )  # fmt: skip
    return header + struct.pack(f"<{len(table)}I", *table) + b"".join(entries) + data


def _directory_entry(
    name: str, kind: int, *, start: int, size: int, child: int = 0xFFFFFFFF, right: int = 0xFFFFFFFF
) -> bytes:
    raw = name.encode("utf-16-le") + b"\0\0"
    links = struct.pack("<HBBIII", len(raw), kind, 1, 0xFFFFFFFF, right, child)
    return raw.ljust(64, b"\0") + links + bytes(36) + struct.pack("<IQ", start, size)


@lru_cache(maxsize=2)
def build_zip_bomb(size_bytes: int) -> bytes:
    """A Word file of a few hundred kilobytes whose document part unpacks to ``size_bytes`` zeros."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, size in (("[Content_Types].xml", 0), ("word/document.xml", size_bytes)):
            info = zipfile.ZipInfo(name, (2024, 1, 2, 3, 4, 6))
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                for _ in range(size >> 20):
                    member.write(_STEP)
    return buffer.getvalue()


@lru_cache(maxsize=2)
def build_gzip_bomb(size_bytes: int) -> bytes:
    """A gzip file that unpacks to ``size_bytes`` zeros."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(_STEP) for _ in range(size_bytes >> 20)) + packer.flush()


@dataclass(frozen=True, slots=True)
class Broken:
    """One way for a file to be broken. ``build`` takes a seed and the size that bombs unpack to."""

    name: str
    suffix: str
    code: str
    build: Callable[[int, int], bytes]
    content_type: str | None = None


def _pdf(seed: int) -> bytes:
    return build_pdf(
        "Report", [[f"Page {i} of report {seed}, which has some words on every page."] * 6 for i in range(4)]
    )


def _locked(seed: int) -> bytes:
    return build_pdf(None, [[f"secret {seed}"]], password="corpus")


def _cut_json(seed: int, _bomb: int) -> bytes:
    return b'{"id": %d, "text": "never closed' % seed


def _docx(seed: int) -> bytes:
    return build_docx(f"Report {seed}", _SECTIONS)


def _damaged_docx(seed: int, _bomb: int) -> bytes:
    """A Word file with its directory intact and its document part overwritten in the middle."""
    body = bytearray(_docx(seed))
    at = body.index(b"word/document.xml") + len(b"word/document.xml")
    body[at + 100 : at + 160] = b"\xa5" * 60
    return bytes(body)


BROKEN = (
    Broken("zero bytes", ".txt", "empty_document", lambda _s, _b: b"", "text/plain"),
    Broken("white space", ".md", "empty_document", lambda _s, _b: b" \n\t\r\n\n  "),
    Broken("cut pdf", ".pdf", "corrupt_document", lambda s, _b: _pdf(s)[:1500], "application/pdf"),
    Broken("cut gzip", ".txt.gz", "corrupt_document", lambda s, _b: build_gzip(build_noise(4000, s))[:2000]),
    Broken("cut docx", ".docx", "corrupt_document", lambda s, _b: _docx(s)[:20_000]),
    Broken("cut xml", ".xml", "corrupt_document", lambda s, _b: build_xml(f"R{s}", _SECTIONS)[:-20], "application/xml"),
    Broken("cut rtf", ".rtf", "corrupt_document", lambda s, _b: build_rtf(f"R{s}", _SECTIONS)[:-20]),
    Broken("cut json", ".json", "corrupt_document", _cut_json, "application/json"),
    Broken("damaged docx", ".docx", "corrupt_document", _damaged_docx),
    Broken("encrypted pdf", ".pdf", "encrypted_document", lambda s, _b: _locked(s)),
    Broken("encrypted docx", ".docx", "encrypted_document", lambda s, _b: build_encrypted_ooxml(s)),
    Broken("noise", ".bin", "binary_content", lambda s, _b: build_noise(5000, s), "application/octet-stream"),
    Broken("image as pdf", ".pdf", "type_mismatch", lambda _s, _b: build_png(), "application/pdf"),
    Broken("noise as docx", ".docx", "type_mismatch", lambda s, _b: build_noise(5000, s)),
    Broken("film as text", ".txt", "type_mismatch", lambda _s, _b: build_mp4_head(), "text/plain"),
    Broken("image", ".png", "unsupported_type", lambda _s, _b: build_png(), "image/png"),
    Broken("archive", ".zip", "unsupported_type", lambda s, _b: build_zip([("a.txt", b"%d" % s)])),
    Broken("scanned pdf", ".pdf", "no_text", lambda _s, _b: build_pdf("Scan", [[], []])),
    Broken("zip bomb", ".docx", "decompressed_too_large", lambda _s, b: build_zip_bomb(b)),
    Broken("gzip bomb", ".txt.gz", "decompressed_too_large", lambda _s, b: build_gzip_bomb(b)),
)  # fmt: skip
