"""From bytes to text: which encoding a text has, and whether it is text at all."""

from __future__ import annotations

import codecs
import re
import string

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

_SEPARATORS = frozenset(" \t\r\n,\u3000\u3001\u3002\uff0c")
"""Characters that every text longer than a few words has some of, in any script."""

_ISO_2022_JP = re.compile(rb"\x1b\$[@B]")


class NotTextError(ValueError):
    """The bytes are no text in any encoding."""


def decode_text(body: bytes, *, declared: str | None = None) -> str:
    """Return the whole text of the bytes; nothing is left out.

    In this order: byte order mark; UTF-32 and UTF-16 without one; UTF-8; ISO-2022-JP; the declared encoding; the
    best statistical guess on a sample; Windows-1252; Latin-1. Every candidate must decode all bytes strictly. UTF-8
    that is damaged in a few places keeps U+FFFD there. Deterministic.

    Args:
        body: The bytes of the text.
        declared: Encoding that a header or the document itself names, if any; may be wrong or unknown.

    Raises:
        NotTextError: too many control bytes for any encoding.

    Cost: one decoding of the whole (two where the first candidate fails), and up to 0.1 s for the guess.
    """
    for mark, encoding in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding, "replace")
    sample = _take_sample(body)
    if b"\0" in sample:
        wide = _decode_wide(body)
        if wide is not None:
            return wide
    if len(sample.translate(None, _CONTROL)) < len(sample) * (1 - _CONTROL_SHARE):
        raise NotTextError
    if _ISO_2022_JP.search(sample):
        japanese = _decode_strictly(body, "iso2022_jp_2")
        if japanese is not None:
            return japanese
    utf8 = _decode_utf8(body)
    if utf8 is not None:
        return utf8
    for encoding in filter(None, (declared, *_guess_encodings(body), "cp1252")):
        text = _decode_strictly(body, encoding)
        if text is not None:
            return text
    return body.decode("latin-1")


def _decode_strictly(body: bytes, encoding: str) -> str | None:
    try:
        return body.decode(encoding)
    except (LookupError, UnicodeError):
        return None


def _take_sample(body: bytes) -> bytes:
    """Beginning, middle and end, so that a text header before binary data does not hide it."""
    if len(body) <= 3 * SAMPLE_BYTES:
        return body
    middle = len(body) // 2
    return body[:SAMPLE_BYTES] + body[middle : middle + SAMPLE_BYTES] + body[-SAMPLE_BYTES:]


def _decode_wide(body: bytes) -> str | None:
    """The text when the bytes are UTF-32 or UTF-16 without a byte order mark, else None."""
    for encoding, unit in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        if len(body) % unit:
            continue
        head = _decode_strictly(body[: SAMPLE_BYTES // 4 * 4 - 4], encoding) or _decode_strictly(body[:4000], encoding)
        if not head:
            continue
        # The wrong byte order turns spaces and line ends into U+2000 and U+0A00, and digits into unassigned or rare
        # characters.
        spaces = sum(char in _SEPARATORS for char in head)
        usual = spaces + sum(char.isalnum() or char in string.punctuation for char in head)
        if usual >= 0.85 * len(head) and "\0" not in head and (spaces or len(head) < 20):
            text = _decode_strictly(body, encoding)
            if text is not None:
                return text
    return None


def _decode_utf8(body: bytes) -> str | None:
    """The text when the bytes are UTF-8, whole or damaged in a few places (a cut at the end included), else None."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start == 0 and len(body) > 8 and body[0] >= 0x80 and body[1:2].isascii():
            return None
    text = body.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    ascii_bytes = len(body) - len(body.translate(None, bytes(range(128))))
    good = len(text) - damaged - ascii_bytes
    return text if damaged <= max(good * _DAMAGE_SHARE, 1 if good else 0) else None


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


def _guess_encodings(body: bytes) -> list[str]:
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


def _dense_sample(body: bytes) -> bytes:
    """Lines with non-ASCII bytes in them, up to ``SAMPLE_BYTES``: the ASCII ones say nothing about the encoding."""
    if len(body) <= SAMPLE_BYTES:
        return body
    taken = 0
    lines = []
    for found in re.finditer(rb"[^\n]*[\x80-\xff][^\n]*\n?", body):
        line = found.group()[:SAMPLE_BYTES]
        lines.append(line)
        taken += len(line)
        if taken >= SAMPLE_BYTES:
            break
    return b"".join(lines)
