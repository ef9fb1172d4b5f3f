"""Decode bytes: choose the encoding of a text, or report that there is none.

A wrong encoding is worse than none: its text would be searched for in vain. So a choice must decode all bytes without
control characters of Latin-1 (C1), and what declares nothing must look like a language (``guess``).
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ingestion_engine.domain.records import ReadWarning
from ingestion_engine.pipeline.parsing.body import Body, WholeBody
from ingestion_engine.pipeline.parsing.guess import GUESS_BYTES, Guess, rank_encodings, unicode_cost
from ingestion_engine.pipeline.parsing.labels import resolve_label

SAMPLE_BYTES = 32 * 1024
"""Bytes at the beginning, in the middle and at the end that tell text from binary data."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x08\x1b\x1e")) + b"\x7f"
"""Bytes that are very rare in text of any single-byte or multi-byte encoding."""

_CONTROL_SHARE = 0.02
"""Maximum share of control bytes in text, beside one: random bytes have 10 %, text none, logs and exports a few (a
guess)."""

_DAMAGE_SHARE = 0.05
"""Maximum share of invalid sequences among the non-ASCII ones in a text that is damaged UTF-8 and not another encoding
(a guess)."""

_ASCII = bytes(range(128))
_PRINTABLE = bytes(range(32, 127)) + b"\t\r\n"

_UNPRINTABLE_SHARE = 0.03
"""Least share of bytes in UTF-16 and UTF-32 that are not printable ASCII: English has 0.5, Japanese 0.1. A log with a
few zero bytes has less."""

_WIDE_BYTES = 8192
"""Bytes at the beginning that tell forms of Unicode apart."""

_WIDE_COST, _WIDEST_COST = -8.3, -10.5
"""Least ``unicode_cost`` of text in UTF-16, and in UTF-32, where hardly any other bytes are characters at all."""

_SWITCHED_COST, _FEW_SWITCHED_COST, _MANY_SWITCHED = -8.5, -6.2, 10
"""Least ``unicode_cost`` of what HZ and UTF-7 switch to, and of UTF-7 with few such characters: ``+new`` is one by
chance, but a rare one."""

_UTF_7_PART = re.compile(rb"\+[A-Za-z0-9+/]+[-=]?")

_RARE = re.compile("[\u0700-\u08ff\u1100-\u1dff\u2c00-\u2fff\u3400-\u4dbf\ua000-\uabff]")
"""Characters of rare scripts, and rare Han: a few of them are chance."""

_NO_TEXT = re.compile(r"[\x80-\x9f\ufdd0-\ufdef\ufffe\uffff]")
"""Control characters beyond ASCII (C1), which no writer means, and characters that do not exist."""

_PRIVATE = re.compile(r"[\ue000-\uf8ff]")
"""Characters of private use: an encoding that gives many of them is not the text's."""

_PRIVATE_SHARE = 0.05

_BINARY_SHARE = 0.1
"""Maximum share of what is no character in a text with a byte order mark: random bytes have 0.15 in UTF-16."""

_ESCAPES = (
    (re.compile(rb"\x1b\$\)C"), "iso2022_kr"),
    (re.compile(rb"\x1b(?:\$[@B]|\$\([DOQ]|\([IJ])"), "iso2022_jp_ext"),
    (re.compile(rb"\x1b(?:\$[@AB]|\.[AF])"), "iso2022_jp_2"),
    (re.compile(rb"~\{(?:[!-w][!-~])+~\}"), "hz"),
    (re.compile(rb"\+[A-Za-z0-9+/]{2,}"), "utf-7"),
)
"""Encodings in 7 bits by what switches to another set of characters."""

_SWITCHES = (b"\x1b$", b"\x1b(I", b"~{")
"""Bytes of which every text in one of these encodings, except UTF-7, has one."""

_ISO_2022_CN = re.compile(rb"\x1b\$\)[AGE]")


class NotTextError(ValueError):
    """The bytes are not text in any encoding."""


class EncodingUnknownError(NotTextError):
    """The bytes may be text, but no encoding makes one of them that is good enough."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec, its handling of invalid bytes, and the length of the byte order mark to skip."""

    name: str
    errors: str = "strict"
    skip: int = 0
    replaced: int = 0
    """Characters that could not be decoded, and are U+FFFD in the text."""

    @property
    def warnings(self) -> tuple[ReadWarning, ...]:
        """What decoding leaves out."""
        if not self.replaced:
            return ()
        return (ReadWarning("characters_replaced", self.replaced, f"Bytes that are no characters of {self.name}."),)


def decode_text(body: bytes, *, declared: str | None = None) -> str:
    """Return the complete text of the bytes in the encoding of ``choose_encoding``, with its errors.

    Cost: one more decoding of all bytes.
    """
    return decode_and_warn(body, declared=declared)[0]


def decode_and_warn(body: bytes, *, declared: str | None = None) -> tuple[str, tuple[ReadWarning, ...]]:
    """Return ``decode_text``, and a warning "characters_replaced" if some bytes could not be decoded."""
    whole = WholeBody(body)
    encoding = choose_encoding(whole, declared=declared)
    return "".join(filter(None, decode_pieces(whole, encoding))), encoding.warnings


def is_utf8(body: bytes) -> bool:
    """Return whether the bytes are valid UTF-8. Pure."""
    return body.isascii() or _decode_strictly(body, "utf-8") is not None


def choose_encoding(body: Body, *, declared: str | None = None) -> Encoding:
    """Return an encoding that decodes all bytes.

    Candidates in order: byte order mark; UTF-32 and UTF-16 without one; encodings in 7 bits; UTF-8; the declared
    encoding, unless another makes a far more likely text; the most likely one of a sample. A candidate must decode all
    bytes strictly and without C1 control characters. If none does, a little damage is accepted, which becomes U+FFFD:
    first in UTF-8, then in the declared encoding, the most likely one, and in what is nearly all ASCII. Deterministic.

    Args:
        body: Bytes of the text.
        declared: Label of an encoding in a header or the document itself, if any; read by ``resolve_label``, may be
            wrong or unknown.

    Raises:
        NotTextError: too many control bytes for any encoding.
        EncodingUnknownError: no encoding makes a likely text of the bytes.

    Cost: one decoding of all bytes (one more for every candidate that fails), and up to 10 ms for the guess; memory of
    one piece.
    """
    head = body.read(0, 4)
    for mark, name in _BOMS:
        if head.startswith(mark):
            if _is_binary(body.read(len(mark), _WIDE_BYTES), name):
                raise NotTextError
            return _count_replaced(body, Encoding(name, "replace", len(mark)))
    sample = _take_sample(body)
    if b"\0" in sample and len(sample.translate(None, _PRINTABLE)) > len(sample) * _UNPRINTABLE_SHARE:
        wide = _choose_wide(body)
        if wide is not None:
            return wide
    label = resolve_label(declared)
    if sample.isascii():
        seven_bits = _choose_seven_bits(body, sample, label)
        if seven_bits is not None:
            return seven_bits
    if len(sample) - len(sample.translate(None, _CONTROL)) > 1 + len(sample) * _CONTROL_SHARE:
        if not sample.isascii() and b"\0" not in sample and body.size % 2 == 0:
            return _choose_wide_without_ascii(body)
        raise NotTextError
    return _choose_utf8(body) or _choose_eight_bits(body, label)


def decode_pieces(body: Body, encoding: Encoding) -> Iterator[str]:
    """Yield the text of the bytes in order; characters across pieces stay whole. Raises LookupError, UnicodeError."""
    decoder = codecs.getincrementaldecoder(encoding.name)(encoding.errors)
    pieces = body.pieces(encoding.skip)
    texts = itertools.chain(map(decoder.decode, pieces), (decoder.decode(b"", final=True) for _ in range(1)))
    if encoding.errors == "strict" or encoding.name.startswith("utf-"):
        yield from texts
    else:
        yield from (_NO_TEXT.sub("\ufffd", text) for text in texts)


def _is_binary(sample: bytes, encoding: str) -> bool:
    """Return whether bytes behind a byte order mark are no text: other files may begin with these bytes too."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
    bad = sum(char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs") for char in text)
    bad -= sum(text.count(char) for char in "\t\n\v\f\r\0\x1b\x1e")
    return bad > max(2, len(text) * _BINARY_SHARE)


def _decodes(body: Body, encoding: Encoding) -> bool:
    """Return whether the encoding decodes all bytes, and none to what is no text."""
    try:
        is_utf = encoding.name.startswith("utf-")
        private = beyond = 0
        for text in decode_pieces(body, encoding):
            if is_utf or text.isascii():
                continue
            if _NO_TEXT.search(text):
                return False
            private += len(_PRIVATE.findall(text))
            beyond += len(text) - len(text.encode("ascii", "ignore"))
    except (LookupError, UnicodeError):
        return False
    return private <= beyond * _PRIVATE_SHARE


def _decode_strictly(body: bytes, encoding: str) -> str | None:
    try:
        return body.decode(encoding)
    except (LookupError, UnicodeError):
        return None


def _count_replaced(body: Body, lenient: Encoding) -> Encoding:
    """Return the encoding with the number of characters that it replaces in the body."""
    if _decodes(body, replace(lenient, errors="strict")):
        return lenient
    replaced = sum(text.count("\ufffd") for text in decode_pieces(body, lenient))
    if lenient.name == "utf-8":
        replaced -= _count_replacements(body)
    return replace(lenient, replaced=replaced)


def _count_replacements(body: Body) -> int:
    """Return how often U+FFFD itself is written in UTF-8."""
    mark, count, tail = "\ufffd".encode(), 0, b""
    for piece in body.pieces():
        count += (tail + piece).count(mark)
        tail = (tail + piece)[-2:]
    return count


def _take_sample(body: Body) -> bytes:
    """Return beginning, middle and end, so that binary data behind a text header is sampled."""
    if body.size <= 3 * SAMPLE_BYTES:
        return body.read(0, body.size)
    places = (0, body.size // 2, body.size - SAMPLE_BYTES)
    return b"".join(body.read(place, SAMPLE_BYTES) for place in places)


def _choose_wide(body: Body) -> Encoding | None:
    """Return UTF-32 or UTF-16 if the bytes decode in it without a byte order mark, else None."""
    likely: list[tuple[float, str]] = []
    for name, unit in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        if body.size % unit:
            continue
        lengths = (_WIDE_BYTES - 4, _WIDE_BYTES // 2)  # the first may end inside a character
        head = next(filter(None, (_decode_strictly(body.read(0, length), name) for length in lengths)), None)
        # The wrong byte order turns letters of ASCII into Han, and spaces and line ends into U+2000 and U+0A00.
        if head and "\0" not in head and (cost := unicode_cost(head)) >= (_WIDE_COST if unit == 2 else _WIDEST_COST):
            likely.append((cost, name))
    for _, name in sorted(likely, reverse=True):
        if _decodes(body, Encoding(name)):
            return Encoding(name)
    return None


def _choose_wide_without_ascii(body: Body) -> Encoding:
    """Return UTF-16 for a text without one ASCII character: Chinese, Japanese. Raises NotTextError."""
    for guess in rank_encodings(body.read(0, SAMPLE_BYTES)):
        if guess.encoding.startswith("utf-16") and guess.is_plausible and _decodes(body, Encoding(guess.encoding)):
            return Encoding(guess.encoding)
    raise NotTextError


def _choose_seven_bits(body: Body, sample: bytes, declared: str | None) -> Encoding | None:
    """Return the encoding of bytes that look like ASCII and switch between sets of characters, else None."""
    place = _find_switch(body)
    if place is None and b"+" not in sample:
        return None
    switch = sample if place is None else body.read(place, SAMPLE_BYTES)
    for mark, name in _ESCAPES if place is not None else _ESCAPES[-1:]:
        if mark.search(switch) and _is_switching(body, name, switch, is_declared=name == declared):
            return Encoding(name)
    if _ISO_2022_CN.search(switch):
        raise EncodingUnknownError  # Python has no codec for it
    return None


def _find_switch(body: Body) -> int | None:
    """Return the place of the first of ``_SWITCHES`` in the body, wherever its pieces end; None without one."""
    tail, start = b"", 0
    for piece in body.pieces():
        if tail or b"\x1b" in piece or b"~" in piece:  # one byte is found ten times as fast as two
            window = tail + piece
            places = [place for mark in _SWITCHES if (place := window.find(mark)) >= 0]
            if places:
                return start - len(tail) + min(places)
        start += len(piece)
        end = (tail + piece[-2:])[-2:]
        tail = end if b"\x1b" in end or b"~" in end else b""
    return None


def _is_switching(body: Body, name: str, switch: bytes, *, is_declared: bool) -> bool:
    """Return whether the encoding decodes all bytes, and makes likely characters of what it switches to.

    ISO 2022 begins with bytes that no other text has; a plus sign or a tilde may stand for itself.
    """
    if not _decodes(body, Encoding(name)):
        return False
    if is_declared or name.startswith("iso2022"):
        return True
    switched = switch[:_WIDE_BYTES]
    beyond = [char for char in switched.decode(name, "ignore") if not char.isascii()]
    cost = unicode_cost("".join(beyond))
    if name == "utf-7" and _is_random(beyond):  # base64 and queries of addresses have plus signs
        return False
    parts = _UTF_7_PART.findall(switched)
    if name == "hz" or len(beyond) >= _MANY_SWITCHED:
        is_end_of_base64 = len(parts) == 1 and parts[0].endswith(b"=")
        return cost >= _SWITCHED_COST and not is_end_of_base64
    if _RARE.search("".join(beyond)):
        return False
    return cost >= _FEW_SWITCHED_COST and (len(parts) > 1 or parts[0].endswith(b"-"))


def _is_random(chars: list[str]) -> bool:
    """Return whether characters are bytes of anything else: some do not exist, or they are of many scripts."""
    if any(unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs") for char in chars):
        return True
    names = (unicodedata.name(char, "").split(" ", 1)[0] for char in chars if unicodedata.category(char)[0] == "L")
    scripts = {"CJK" if name in _MIXED_SCRIPTS else name for name in names}
    return len(scripts) > 1 + (len(chars) >= _MANY_SWITCHED) + min(3, len(chars) // 100)


_MIXED_SCRIPTS = frozenset({"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "HALFWIDTH", "FULLWIDTH"})
"""First words of the names of characters that stand among those of CJK."""


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
    good = characters - damaged - _count_ascii(body)
    if damaged > max(good * _DAMAGE_SHARE, 1 if good > 2 else 0):
        return None
    return _count_replaced(body, lenient)


def _count_ascii(body: Body) -> int:
    return sum(len(piece) - len(piece.translate(None, _ASCII)) for piece in body.pieces())


_TRUST, _TRUST_PER_CHARACTER = 15.0, 1.2
"""How much more likely another encoding must make the text than the declared one, as a logarithm: the Russian text in
Windows-1251 that a server declares as ISO 8859-1 is more likely by 6 per letter."""


def _choose_eight_bits(body: Body, declared: str | None) -> Encoding:
    """Return the declared or the most likely encoding of bytes that are not UTF-8. Raises EncodingUnknownError."""
    ranked = rank_encodings(_dense_sample(body))
    likely = [guess for guess in ranked if guess.is_plausible]
    names = [guess.encoding for guess in likely]
    trusted = declared if declared and not _is_refuted(declared, ranked) else None
    if trusted:
        names.insert(0, trusted)
    for name in dict.fromkeys(names):
        if _decodes(body, Encoding(name)):
            return Encoding(name)
    beyond = body.size - _count_ascii(body)
    for name in dict.fromkeys(names[:2]):
        damaged = _count_replaced(body, Encoding(name, "replace"))
        if damaged.replaced <= beyond * _DAMAGE_SHARE:
            return damaged
    if beyond <= max(1, body.size * _STRAY_SHARE):
        if ranked and ranked[0].encoding == _USUAL and _decodes(body, Encoding(_USUAL)):
            return Encoding(_USUAL)
        return _count_replaced(body, Encoding("ascii", "replace"))
    raise EncodingUnknownError


def _is_refuted(declared: str, ranked: list[Guess]) -> bool:
    """Return whether another encoding than the declared one makes a far more likely text."""
    if declared.startswith(("utf-", "iso2022", "hz")):
        return True  # the bytes would have decoded in it before
    known = {codecs.lookup(guess.encoding).name: guess for guess in ranked}
    own = known.get(codecs.lookup(declared).name)
    if own is None or not ranked[0].is_plausible:
        return False
    return ranked[0].likelihood > own.likelihood + _TRUST + _TRUST_PER_CHARACTER * own.characters


_USUAL = "cp1252"
"""What a few symbols among ASCII are, if they are anything."""

_STRAY_SHARE = 0.02
"""Maximum share of bytes beyond ASCII in a text that is ASCII with a few damaged bytes (a guess)."""


_CONTEXT_BYTES = 40
"""Bytes of ASCII before the first other byte of a line that a sample keeps."""


def _dense_sample(body: Body) -> bytes:
    """Return what says most about the encoding: lines with bytes beyond ASCII, from shortly before the first of them.

    At most ``GUESS_BYTES``, and only the last character may be cut.
    """
    if body.size <= GUESS_BYTES:
        return body.read(0, body.size)
    taken = 0
    lines = []
    for line in _dense_lines(body):
        lines.append(line)
        taken += len(line)
        if taken >= GUESS_BYTES:
            break
    return b"".join(lines)[:GUESS_BYTES]


def _dense_lines(body: Body) -> Iterator[bytes]:
    """Yield every line that has bytes beyond ASCII; one of more than ``GUESS_BYTES`` ends there, and is the last."""
    before, dense = b"", b""
    for piece in body.pieces():
        for part in io.BytesIO(piece):  # splits lines only at line feeds
            rest = part if dense else part.lstrip(_ASCII)
            before = (before + part[: len(part) - len(rest)])[-_CONTEXT_BYTES:]
            dense += rest[:GUESS_BYTES]
            if len(dense) >= GUESS_BYTES:
                yield before + dense[:GUESS_BYTES]
                return
            if part.endswith(b"\n"):
                if dense:
                    yield before + dense
                before, dense = b"", b""
    if dense:
        yield before + dense
