"""From bytes to text: which encoding a text has, and whether it is text at all."""

from __future__ import annotations

import codecs
import io
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

from ingestion_engine.pipeline.parsing.body import Body, WholeBody

SAMPLE_BYTES = 32 * 1024
"""How much is looked at to guess an encoding; statistical detection costs about 1 s per MB and gets no better with
more."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x08\x1b")) + b"\x7f"
"""Bytes that text in any single-byte or multi-byte encoding hardly ever has."""

_CONTROL_SHARE = 0.02
"""Random bytes have 10 % of them, text none; a few survive in logs and exports (a guess between the two)."""

_DAMAGE_SHARE = 0.05
"""So many bad sequences among the non-ASCII ones still make a text UTF-8 with damage rather than another encoding (a
guess)."""

_ASCII = bytes(range(128))

_SEPARATORS = frozenset(" \t\r\n,\u3000\u3001\u3002\uff0c")
"""Characters that every text longer than a few words has some of, in any script."""

_ISO_2022_JP = re.compile(rb"\x1b\$[@B]")


class NotTextError(ValueError):
    """The bytes are no text in any encoding."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How bytes become text: a codec, what it does about damage, and how many bytes of byte order mark come first."""

    name: str
    errors: str = "strict"
    skip: int = 0


def decode_text(body: bytes, *, declared: str | None = None) -> str:
    """Return the whole text of the bytes; nothing is left out. Raises and decides like ``choose_encoding``.

    Cost: one more decoding of the whole.
    """
    whole = WholeBody(body)
    return "".join(filter(None, decode_pieces(whole, choose_encoding(whole, declared=declared))))


def is_utf8(body: bytes) -> bool:
    """Return whether the bytes are valid UTF-8, so that nothing has to be guessed. Pure."""
    return body.isascii() or _decode_strictly(body, "utf-8") is not None


def choose_encoding(body: Body, *, declared: str | None = None) -> Encoding:
    """Return the encoding that all bytes decode in.

    In this order: byte order mark; UTF-32 and UTF-16 without one; UTF-8; ISO-2022-JP; the declared encoding; the
    best statistical guess on a sample; Windows-1252; Latin-1. Every candidate must decode all bytes strictly. UTF-8
    that is damaged in a few places keeps U+FFFD there. Deterministic.

    Args:
        body: The bytes of the text.
        declared: Encoding that a header or the document itself names, if any; may be wrong or unknown.

    Raises:
        NotTextError: too many control bytes for any encoding.

    Cost: one decoding of the whole (two where the first candidate fails), and up to 0.1 s for the guess; memory of one
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
    for encoding in map(Encoding, filter(None, (declared, *_guess_encodings(body), "cp1252"))):
        if _decodes(body, encoding):
            return encoding
    return Encoding("latin-1")


def decode_pieces(body: Body, encoding: Encoding) -> Iterator[str]:
    """Yield the text of the bytes, in order; characters are whole where they were. Raises LookupError, UnicodeError."""
    decoder = codecs.getincrementaldecoder(encoding.name)(encoding.errors)
    for piece in body.pieces(encoding.skip):
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _decodes(body: Body, encoding: Encoding) -> bool:
    try:
        b"a".decode(encoding.name, "replace")  # a LookupError for codecs that make no text
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
    """Beginning, middle and end, so that a text header before binary data does not hide it."""
    if body.size <= 3 * SAMPLE_BYTES:
        return body.read(0, body.size)
    places = (0, body.size // 2, body.size - SAMPLE_BYTES)
    return b"".join(body.read(place, SAMPLE_BYTES) for place in places)


def _choose_wide(body: Body) -> Encoding | None:
    """UTF-32 or UTF-16 when the bytes are that without a byte order mark, else None."""
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
    """UTF-8 when the bytes are that, whole or damaged in a few places (a cut at the end included), else None."""
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
"""Narrow encodings are read as the wider ones that writers really use: same bytes, more characters."""

_COMMON = frozenset({
    "cp932", "euc_jp", "gb18030", "cp950", "big5hkscs", "cp949",
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874", "tis_620",
    "koi8_r", "koi8_u", "cp866", "cp850", "cp852", "cp437", "mac_roman", "mac_cyrillic",
    "iso8859_2", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_8", "iso8859_9", "iso8859_15",
})  # fmt: skip
"""Encodings that files are found in; a better score of a rarer one is chance."""

_WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜàáâäãåæçèéêëìíîïñòóôöõøœùúûüÿß’‘“”„–—…€°«»§·©®\xa0¡¿")  # noqa: RUF001


def _guess_encodings(body: Body) -> list[str]:
    """Likely encodings of text that is not UTF-8, the best first."""
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
    """Whether Windows-1252 makes mostly plain letters with some accented ones, all of them usual in Western Europe."""
    text = sample.decode("cp1252", "replace")
    special = [char for char in text if not char.isascii()]
    letters = sum(char.isalpha() for char in text)
    accented = sum(char.isalpha() for char in special)
    return accented <= 0.3 * letters and sum(char in _WESTERN for char in special) >= 0.98 * len(special)


def _looks_cyrillic(sample: bytes) -> bool:
    """Whether Shift-JIS would make half-width katakana of it, which nobody writes whole texts in."""
    text = sample.decode("cp932", "replace")
    return sum("\uff61" <= char <= "\uff9f" for char in text) > 0.5 * sum(not char.isascii() for char in text)


def _dense_sample(body: Body) -> bytes:
    """Lines with non-ASCII bytes in them, up to ``SAMPLE_BYTES``: the ASCII ones say nothing about the encoding."""
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
    """The first ``SAMPLE_BYTES`` of every line that has a non-ASCII byte anywhere."""
    head, is_ascii = b"", True
    for piece in body.pieces():
        for part in io.BytesIO(piece):  # ends lines at line feeds alone
            head = (head + part[:SAMPLE_BYTES])[:SAMPLE_BYTES]
            is_ascii = is_ascii and part.isascii()
            if part.endswith(b"\n"):
                if not is_ascii:
                    yield head
                head, is_ascii = b"", True
    if not is_ascii:
        yield head
