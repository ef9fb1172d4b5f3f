"""Decode bytes: choose the encoding of a text, or report that the bytes are not text."""

from __future__ import annotations

import codecs
import io
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

from ingestion_engine.pipeline.parsing.body import Body, WholeBody
from ingestion_engine.pipeline.parsing.labels import resolve_label

SAMPLE_BYTES = 32 * 1024
"""Bytes sampled to guess an encoding; statistical detection costs about 1 s per MB and does not improve with more."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x08\x1b")) + b"\x7f"
"""Bytes that are very rare in text of any single-byte or multi-byte encoding."""

_CONTROL_SHARE = 0.02
"""Maximum share of control bytes in text. Random bytes have 10 %, text none, logs and exports a few (a guess)."""

_DAMAGE_SHARE = 0.05
"""Maximum share of invalid sequences among the non-ASCII ones in a text that is damaged UTF-8 and not another encoding
(a guess)."""

_ASCII = bytes(range(128))

_SEPARATORS = frozenset(" \t\r\n,\u3000\u3001\u3002\uff0c")
"""Characters of which every text of more than a few words has some, in any script."""

_ISO_2022_JP = re.compile(rb"\x1b\$[@B]")


class NotTextError(ValueError):
    """The bytes are not text in any encoding."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec, its handling of invalid bytes, and the length of the byte order mark to skip."""

    name: str
    errors: str = "strict"
    skip: int = 0


def decode_text(body: bytes, *, declared: str | None = None) -> str:
    """Return the complete text of the bytes in the encoding of ``choose_encoding``, with its errors.

    Cost: one more decoding of all bytes.
    """
    whole = WholeBody(body)
    return "".join(filter(None, decode_pieces(whole, choose_encoding(whole, declared=declared))))


def is_utf8(body: bytes) -> bool:
    """Return whether the bytes are valid UTF-8. Pure."""
    return body.isascii() or _decode_strictly(body, "utf-8") is not None


def choose_encoding(body: Body, *, declared: str | None = None) -> Encoding:
    """Return an encoding that decodes all bytes.

    Candidates in order: byte order mark; UTF-32 and UTF-16 without one; UTF-8; ISO-2022-JP; the declared encoding; the
    best statistical guess on a sample; Windows-1252; Latin-1. A candidate must decode all bytes strictly, except UTF-8
    with little damage, which becomes U+FFFD. Deterministic.

    Args:
        body: Bytes of the text.
        declared: Label of an encoding in a header or the document itself, if any; read by ``resolve_label``, may be
            wrong or unknown.

    Raises:
        NotTextError: too many control bytes for any encoding.

    Cost: one decoding of all bytes (two when the first candidate fails), and up to 0.1 s for the guess; memory of one
    piece.
    """
    head = body.read(0, 4)
    for mark, name in _BOMS:
        if head.startswith(mark):
            return Encoding(name, "replace", len(mark))
    sample = _take_sample(body)
    if b"\0" in sample:
        wide = _choose_wide(body)
        if wide is not None:
            return wide
    if len(sample.translate(None, _CONTROL)) < len(sample) * (1 - _CONTROL_SHARE):
        raise NotTextError
    if _ISO_2022_JP.search(sample):
        japanese = Encoding("iso2022_jp_2")
        if _decodes(body, japanese):
            return japanese
    utf8 = _choose_utf8(body)
    if utf8 is not None:
        return utf8
    for encoding in map(Encoding, filter(None, (resolve_label(declared), *_guess_encodings(body), "cp1252"))):
        if _decodes(body, encoding):
            return encoding
    return Encoding("latin-1")


def decode_pieces(body: Body, encoding: Encoding) -> Iterator[str]:
    """Yield the text of the bytes in order; characters across pieces stay whole. Raises LookupError, UnicodeError."""
    decoder = codecs.getincrementaldecoder(encoding.name)(encoding.errors)
    for piece in body.pieces(encoding.skip):
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _decodes(body: Body, encoding: Encoding) -> bool:
    try:
        b"a".decode(encoding.name, "replace")  # raises LookupError for codecs that do not return text
        for _ in decode_pieces(body, encoding):
            pass
    except (LookupError, UnicodeError):
        return False
    return True


def _decode_strictly(body: bytes, encoding: str) -> str | None:
    try:
        return body.decode(encoding)
    except (LookupError, UnicodeError):
        return None


def _take_sample(body: Body) -> bytes:
    """Return beginning, middle and end, so that binary data behind a text header is sampled."""
    if body.size <= 3 * SAMPLE_BYTES:
        return body.read(0, body.size)
    places = (0, body.size // 2, body.size - SAMPLE_BYTES)
    return b"".join(body.read(place, SAMPLE_BYTES) for place in places)


def _choose_wide(body: Body) -> Encoding | None:
    """Return UTF-32 or UTF-16 if the bytes decode in it without a byte order mark, else None."""
    for name, unit in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        if body.size % unit:
            continue
        lengths = (SAMPLE_BYTES // 4 * 4 - 4, 4000)
        head = next(filter(None, (_decode_strictly(body.read(0, length), name) for length in lengths)), None)
        if not head:
            continue
        # The wrong byte order turns spaces and line ends into U+2000 and U+0A00, and digits into unassigned or rare
        # characters.
        spaces = sum(char in _SEPARATORS for char in head)
        usual = spaces + sum(char.isalnum() or char in string.punctuation for char in head)
        is_usual = usual >= 0.85 * len(head) and "\0" not in head and (spaces or len(head) < 20)
        if is_usual and _decodes(body, Encoding(name)):
            return Encoding(name)
    return None


def _choose_utf8(body: Body) -> Encoding | None:
    """Return UTF-8 if the bytes decode in it completely or with little damage (such as a cut at the end), else None."""
    if _decodes(body, Encoding("utf-8")):
        return Encoding("utf-8")
    head = body.read(0, 2)
    if body.size > 8 and head[0] >= 0x80 and head[1:].isascii():
        return None
    damaged = characters = 0
    lenient = Encoding("utf-8", "replace")
    for text in decode_pieces(body, lenient):
        damaged += text.count("\ufffd")
        characters += len(text)
    ascii_bytes = sum(len(piece) - len(piece.translate(None, _ASCII)) for piece in body.pieces())
    good = characters - damaged - ascii_bytes
    return lenient if damaged <= max(good * _DAMAGE_SHARE, 1 if good else 0) else None


_WIDER = {
    "shift_jis": "cp932", "shift_jis_2004": "cp932", "shift_jisx0213": "cp932",
    "gb2312": "gb18030", "gbk": "gb18030",
    "big5": "cp950",
    "euc_jis_2004": "euc_jp", "euc_jisx0213": "euc_jp", "euc_kr": "cp949",
    "iso8859_1": "cp1252", "latin_1": "cp1252",
}  # fmt: skip
"""Narrow encodings and the wider ones that writers actually use: same bytes, more characters."""

_COMMON = frozenset({
    "cp932", "euc_jp", "gb18030", "cp950", "big5hkscs", "cp949",
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874", "tis_620",
    "koi8_r", "koi8_u", "cp866", "cp850", "cp852", "cp437", "mac_roman", "mac_cyrillic",
    "iso8859_2", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8", "iso8859_9", "iso8859_15",
})  # fmt: skip
"""Encodings that are common in files; a better score of a rarer one is chance."""

# RUF001: letters that look like others are what this set is for.
_WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜàáâäãåæçèéêëìíîïñòóôöõøœùúûüÿß’‘“”„–—…€°«»§·©®\xa0¡¿")  # noqa: RUF001


def _guess_encodings(body: Body) -> list[str]:
    """Return likely encodings of text that is not UTF-8, best first."""
    from charset_normalizer import from_bytes

    sample = _dense_sample(body)
    if _looks_western(sample):
        return ["cp1252"]
    matches = from_bytes(sample, threshold=0.3, enable_fallback=False, preemptive_behaviour=False)
    names = dict.fromkeys(_WIDER.get(match.encoding, match.encoding) for match in matches)
    guesses = [name for name in names if name in _COMMON] + [name for name in names if name not in _COMMON]
    if guesses[:1] == ["cp932"] and _looks_cyrillic(sample):
        lower = sum(0xC0 <= byte <= 0xDF for byte in sample)
        upper = sum(byte >= 0xE0 for byte in sample)
        guesses.insert(0, "koi8_r" if lower > upper else "cp1251")
    return guesses


def _looks_western(sample: bytes) -> bool:
    """True when Windows-1252 gives mostly plain letters and a few accented ones that are common in Western Europe."""
    text = sample.decode("cp1252", "replace")
    special = [char for char in text if not char.isascii()]
    letters = sum(char.isalpha() for char in text)
    accented = sum(char.isalpha() for char in special)
    return accented <= 0.3 * letters and sum(char in _WESTERN for char in special) >= 0.98 * len(special)


def _looks_cyrillic(sample: bytes) -> bool:
    """True when Shift-JIS gives half-width katakana, which no whole text is written in."""
    text = sample.decode("cp932", "replace")
    return sum("\uff61" <= char <= "\uff9f" for char in text) > 0.5 * sum(not char.isascii() for char in text)


def _dense_sample(body: Body) -> bytes:
    """Return lines with non-ASCII bytes, up to ``SAMPLE_BYTES``: lines of ASCII do not identify the encoding."""
    if body.size <= SAMPLE_BYTES:
        return body.read(0, body.size)
    taken = 0
    lines = []
    for line in _line_heads(body):
        lines.append(line)
        taken += len(line)
        if taken >= SAMPLE_BYTES:
            break
    return b"".join(lines)


def _line_heads(body: Body) -> Iterator[bytes]:
    """Yield the first ``SAMPLE_BYTES`` of every line that contains a non-ASCII byte."""
    head, is_ascii = b"", True
    for piece in body.pieces():
        for part in io.BytesIO(piece):  # splits lines only at line feeds
            head = (head + part[:SAMPLE_BYTES])[:SAMPLE_BYTES]
            is_ascii = is_ascii and part.isascii()
            if part.endswith(b"\n"):
                if not is_ascii:
                    yield head
                head, is_ascii = b"", True
    if not is_ascii:
        yield head
