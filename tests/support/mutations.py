"""Mutations of valid files: what damaged, cut short, doubled and hostile files look like. Deterministic.

Inside archives the members are mutated and packed again with the right checksums, so that readers meet the damage and
not only the unpacker.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

MOST_BYTES: Final = 96 * 1024
"""Largest size of a mutated file or member; readers that take time of the square of it still end within seconds."""

_MARKUP = ("<", ">", "&", "&amp;", "&#0;", "&#x110000;", "&lt", "<!--", "-->", "<![CDATA[", "]]>", "<?xml ?>", "<!x")
_SPACES = (" ", "\n", "\r", "\r\n", "\t", "\v", "\f", "\x85", "\u2028", "\u00a0", "\u200b", "\ufeff", "\0", "\x1b")
_LETTERS = ("a", "é", "ß", "字", "語", "ก็", "\u0301", "\u05d0", "\u0627", "😀", "\U0010ffff", "\ufffd", "\ufffe")
_XML = (
    *_MARKUP, "<a>", "</a>", "<a b='", "<x:a xmlns:x='y'>", "<!DOCTYPE a [", "<!ENTITY a '&b;&b;&b;'>", "&a;",
    "<title>", "</title>", ' xml:space="preserve"', "<?pi ", "x:", "xmlns='",
)  # fmt: skip
_HTML = (
    *_MARKUP, "<div>", "</div>", "<p>", "<br>", "<table><tr><td>", "</td>", "</table>",
    "<td rowspan=65535 colspan=1000>", "<script>", "</script>", "<style>", "<textarea>", "<pre>", "<ul><li>",
    "<ol start=99999999999><li>", "<a href='", "<title>", "<meta charset=utf-16>", "<svg><title>", "<template>",
    "<select><option>", "<noscript>", "<details>", "<img alt='a' src='data:image/png;base64,AAAA'>",
    "<input value=a>", "<frameset>", "<plaintext>", "<h1>", "<html>", "<body>", "<head>", "style='display:none'",
    "hidden ", "<ruby>a<rt>b",
)  # fmt: skip
_MARKDOWN = (
    "# ", "## T\n", "####### ", "- ", "* ", "> ", "```\n", "~~~", "| a | b |\n", "|---|---|\n", "|", "[", "](",
    "[a](b)", "![](data:image/png;base64,AAAA)", "---\n", "===\n", "`", "**", "    ", "1. ", "\\", "<!-- c -->\n",
    "[^1]: ", "$$\n", "---\ntitle: a\n---\n", "{#a}",
)  # fmt: skip
_JSON = (
    "[", "]", "{", "}", '"', "\\", "\\u", "\\ud800", '{"a":', '"a":1,', "1e999", "-", "0" * 500, "null,", "true",
    "NaN", ",", ":", "/*", "*/", "//", "'", '"title":"t",', '"cells":[', '"cell_type":"code",', '"source":["a\\n"],',
    "\x1e", '"outputs":[{"data":{"image/png":"AAAA"}}],', '"nbformat":4,',
)  # fmt: skip
_MAIL = (
    "Subject: ", "From: a@b\n", "Date: x\n", "=?utf-8?q?a_?=", "=?utf-8?b?4pyT?=", "=?x?q?a?= ",
    "MIME-Version: 1.0\n", "Content-Type: multipart/mixed; boundary=b\n\n", "Content-Type: message/rfc822\n\n",
    "Content-Type: text/html\n\n", "Content-Type: text/plain; charset=utf-16\n\n", "\n--b\n", "--b--\n",
    "Content-Transfer-Encoding: base64\n", "=3D", "Content-Transfer-Encoding: x-uuencode\n", "begin 644 a\n",
    "; name*0*=utf-8''%e4", '; filename="', "(", "<", "=\n", "Content-Disposition: attachment\n",
    "BEGIN:VCALENDAR\n", "BEGIN:VEVENT\nSUMMARY:a\n", "END:VEVENT\n", "From b\n",
)  # fmt: skip
_RTF = (
    "{", "}", "\\", "\\b ", "\\f0", "\\f99999", "\\'e9", "\\'81", "\\u233?", "\\u-10000?", "\\uc0 ", "\\uc9 ",
    "\\par ", "{\\*\\x ", "{\\fonttbl{\\f0\\fcharset128 A;}}", "{\\pict ", "\\bin100000 ", "\\bin-1 ", "\\cell ",
    "\\row ", "\\upr", "\\trowd ", "{\\field{\\*\\fldinst HYPERLINK}{\\fldrslt ", "\\ansicpg932 ", "\\cpg950 ",
    "\\result ", "{\\rtf1 ", "\\plain ", "\\*", "\\-9999999999 ", "\\~", "{\\object{\\objdata ", "{\\annotation ",
    "\\page ", "\\tab ",
)  # fmt: skip
_PDF = (
    "1 0 obj\n", "endobj\n", "stream\n", "endstream\n", "<<", ">>", "/Length 999999999", "[ ", "] ", "( ", ") ",
    "xref\n", "trailer\n", "/Kids [3 0 R]", "/Prev 0", "/Parent 1 0 R", " BT ", " ET ", " Tj ", "q ", "Q ",
    "/F1 12 Tf ", "/Type /Pages", "/MediaBox [0 0 1e9 1e9]", "/Filter /FlateDecode", "/Encrypt 1 0 R", "%%EOF\n",
    "startxref\n0\n", "/Count -1", "/Rotate 45", "/Contents [4 0 R 4 0 R]", "/ToUnicode 1 0 R", "<d800> Tj ",
)  # fmt: skip
_OFFICE = (
    *_XML, "<w:p><w:r><w:t>a</w:t></w:r></w:p>", "<w:p>", "<w:tbl><w:tr><w:tc>", "</w:tc>", "<w:sdt><w:sdtContent>",
    "<w:ins>", '<w:altChunk r:id="rId1"/>', '<w:footnoteReference w:id="1"/>', "<mc:AlternateContent><mc:Choice>",
    "<w:txbxContent>", "<a:p><a:r><a:t>a</a:t></a:r></a:p>", "<p:sp><p:txBody>",
    '<c r="XFD1048576" t="s"><v>1</v></c>', '<c r="A0"><v>', "<row>", '<c t="s"><v>-1</v></c>',
    "<c><v>1e308</v></c>", '<c s="99"><v>1</v></c>', '<f t="shared" si="0">A1</f>', "<si><t>a</t></si>",
    '<Relationship Id="rId1" Target="../../x" Type="y"/>', 'Target="/word/document.xml"', 'TargetMode="External"',
    'r:id="rId9"', '<item id="c1" href="../x%2e.xhtml"/>', '<itemref idref="none"/>', '<mergeCell ref="A1:XFD9"/>',
    "<w:tab/>", "<w:br/>",
)  # fmt: skip
_TABLE = (",", ";", "\t", "|", '"', '""', "sep=;\n", "a,b\n", '"a\nb",', "2020,", "NaN", ",,,,,,,,\n", "\0", "'", " ,")

_COMMON = (
    *(char.encode() for char in (*_SPACES, *_LETTERS)),
    b"\xff", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\xff\xfe", b"\xfe\xff", b"\x1b$B", b"\x1b(B", b"\x0e", b"~{",
    b"+AGE-", b"%PDF-", b"{\\rtf1", b"PK\x03\x04", b"\x1f\x8b", b"<html>", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"ustar",
)  # fmt: skip


def _encode(tokens: Sequence[str]) -> tuple[bytes, ...]:
    return (*_COMMON, *(token.encode() for token in tokens))


TOKENS: Final = {
    "text": _encode(_MARKDOWN[:4]),
    "markdown": _encode((*_MARKDOWN, *_MARKUP)),
    "html": _encode(_HTML),
    "csv": _encode(_TABLE),
    "json": _encode(_JSON),
    "jsonl": _encode(_JSON),
    "notebook": _encode(_JSON),
    "xml": _encode(_XML),
    "email": _encode((*_MAIL, *_HTML[:30])),
    "rtf": _encode(_RTF),
    "pdf": _encode(_PDF),
    "docx": _encode((*_OFFICE, *_HTML[:20])),
    "pptx": _encode(_OFFICE),
    "xlsx": _encode(_OFFICE),
    "epub": _encode((*_OFFICE, *_HTML)),
    "gzip": _encode((*_JSON, *_TABLE)),
}
"""Pieces that mean something to the reader of a format."""

_NUMBER = re.compile(rb"[0-9]++")
_NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"2",
    b"65535",
    b"65536",
    b"2147483648",
    b"4294967295",
    b"99999999999999999999",
    b"1e400",
)
_CODECS = (
    "utf-16",
    "utf-16-le",
    "utf-8-sig",
    "utf-32",
    "utf-7",
    "cp1252",
    "cp1251",
    "shift_jis",
    "gb18030",
    "iso2022_jp",
)


@dataclass(frozen=True, slots=True)
class Mutator:
    """Mutates files of one format."""

    tokens: Sequence[bytes]
    """Pieces of the format to insert and repeat."""
    seeds: Sequence[bytes]
    """Valid files of the format, whose parts are spliced."""

    def make(self, number: int, base: str = "") -> bytes:
        """Return mutated file ``number`` of the sequence that a text begins. Pure."""
        rng = random.Random(f"{base}/{number}")
        body = rng.choice(self.seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
            body = self._mutate(body, rng)
        return body

    def _mutate(self, body: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.85:  # else the container itself
            if body.startswith(b"PK\x03\x04"):
                return self._mutate_archive(body, rng)
            if body.startswith(b"\x1f\x8b"):
                return self._mutate_gzip(body, rng)
        return self._mutate_bytes(body, rng)

    def _mutate_bytes(self, body: bytes, rng: random.Random) -> bytes:
        of_format = (self._insert, self._insert, self._nest, self._splice)
        change: Callable[[bytes, random.Random], bytes] = rng.choice(
            (_flip_bits, _set_bytes, _cut, _drop, _repeat, _swap, _replace_number, _encode_otherwise, *of_format)
        )
        return change(body, rng)[:MOST_BYTES]

    def _insert(self, body: bytes, rng: random.Random) -> bytes:
        for _ in range(rng.choice((1, 1, 3, 10))):
            at = rng.randint(0, len(body))
            body = body[:at] + rng.choice(self.tokens) + body[at:]
        return body

    def _nest(self, body: bytes, rng: random.Random) -> bytes:
        """Repeat one or two tokens, as deep nesting, long lines and endless lists do."""
        unit = b"".join(rng.choices(self.tokens, k=rng.choice((1, 1, 2))))
        times = min(rng.choice((10, 200, 5_000)), MOST_BYTES // 2 // len(unit))
        at = rng.choice((0, len(body), rng.randint(0, len(body))))
        return body[:at] + unit * times + body[at:]

    def _splice(self, body: bytes, rng: random.Random) -> bytes:
        other = rng.choice(self.seeds)
        return body[: rng.randint(0, len(body))] + other[rng.randint(0, len(other)) :]

    def _mutate_archive(self, body: bytes, rng: random.Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, ValueError, RuntimeError):
            return self._mutate_bytes(body, rng)
        if not members:
            return body
        texts = [
            n for n, (name, _) in enumerate(members) if name.endswith((".xml", ".rels", ".xhtml", ".opf", ".html"))
        ]
        at = rng.choice(texts) if texts and rng.random() < 0.8 else rng.randrange(len(members))
        name, content = members[at]
        what = rng.random()
        if what < 0.8:
            members[at] = (name, self._mutate_bytes(content, rng))
        elif what < 0.87:
            del members[at]
        elif what < 0.94:
            members[at] = (
                rng.choice((name.upper(), name.replace("/", "\\"), f"/{name}", f"x/{name}", "a" * 300)),
                content,
            )
        else:
            members.append((rng.choice(members)[0], content))
        return _pack(members, is_stored=rng.random() < 0.2)

    def _mutate_gzip(self, body: bytes, rng: random.Random) -> bytes:
        try:
            content = gzip.decompress(body)
        except (OSError, EOFError, zlib.error):
            return self._mutate_bytes(body, rng)
        return gzip.compress(self._mutate_bytes(content, rng), mtime=0)


def _pack(members: Sequence[tuple[str, bytes]], *, is_stored: bool) -> bytes:
    buffer = io.BytesIO()
    compression = zipfile.ZIP_STORED if is_stored else zipfile.ZIP_DEFLATED
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # two members of one name are meant
        for name, content in members:
            info = zipfile.ZipInfo(name or "x", (2024, 1, 2, 3, 4, 6))
            info.compress_type = compression
            with archive.open(info, "w") as member:
                member.write(content)
    return buffer.getvalue()


def _flip_bits(body: bytes, rng: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 4, 30))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_bytes(body: bytes, rng: random.Random) -> bytes:
    changed = bytearray(body)
    at, count = rng.randint(0, len(body)), rng.choice((1, 2, 4, 100))
    changed[at : at + count] = bytes([rng.choice((0, 0x20, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) * count
    return bytes(changed)


def _cut(body: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(body))
    return body[at:] if rng.random() < 0.2 else body[:at]


def _block(body: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(body))
    return start, min(len(body), start + rng.choice((1, 8, 64, 1_000, 10_000)))


def _drop(body: bytes, rng: random.Random) -> bytes:
    start, stop = _block(body, rng)
    return body[:start] + body[stop:]


def _repeat(body: bytes, rng: random.Random) -> bytes:
    start, stop = _block(body, rng)
    times = min(rng.choice((2, 3, 50, 2_000)), max(2, MOST_BYTES // max(1, stop - start)))
    return body[:start] + body[start:stop] * times + body[stop:]


def _swap(body: bytes, rng: random.Random) -> bytes:
    (a, b), (c, d) = sorted((_block(body, rng), _block(body, rng)))
    b = min(b, c)
    return body[:a] + body[c:d] + body[b:c] + body[a:b] + body[d:]


def _replace_number(body: bytes, rng: random.Random) -> bytes:
    found = list(_NUMBER.finditer(body))
    if not found:
        return body
    place = rng.choice(found)
    return body[: place.start()] + rng.choice(_NUMBERS) + body[place.end() :]


def _encode_otherwise(body: bytes, rng: random.Random) -> bytes:
    return body.decode("utf-8", "replace").encode(rng.choice(_CODECS), "replace")
