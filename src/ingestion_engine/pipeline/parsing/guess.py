"""Guess the encoding of a text that declares none, by its letters: which encoding makes words of a known language.

No library is used: decision 40 compares those that exist. Each candidate gets the logarithm of how likely its
characters are: letters by their frequency in the best of its languages, everything else by its place (a symbol between
two letters, a capital behind a small letter and a quotation mark inside a word hardly occur in text that was read
right).
"""

# ruff: noqa: RUF001 - characters that look like others are what this file tells apart

from __future__ import annotations

import codecs
import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import TYPE_CHECKING, Any

from ingestion_engine.pipeline.parsing.alphabets import (
    ALPHABETS,
    COMMON_HALF_KANA,
    COMMON_HAN,
    COMMON_HANGUL,
    COMMON_KANJI,
    COMMON_WORDS,
    SINGLE_BYTE,
    Alphabet,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Costs = NDArray[np.float64]

GUESS_BYTES = 8 * 1024
"""Bytes that a guess reads; more of them change nothing in the table of docs/formats.md."""


_LOWEST, _LOWEST_WIDE, _SHORT = -4.2, -8.3, 5.0
"""Limits of ``Guess.per_character``: of single bytes, of several bytes, and what they are lower for few characters.
Measured with benchmarks/bench_encodings.py: text that was read right has at least -4.2 and -7.5, random bytes -5.7 and
-10."""


@dataclass(frozen=True, slots=True)
class Guess:
    """One encoding, and how likely it makes the text, as the natural logarithm of a probability."""

    encoding: str
    likelihood: float
    per_character: float
    """Mean over the characters beyond ASCII, without what ASCII words say for a language."""
    characters: int
    """Number of characters beyond ASCII."""

    @property
    def is_plausible(self) -> bool:
        """True when text that was read right is hardly ever less likely, and what is no text hardly ever as likely."""
        lowest = _LOWEST_WIDE if self.encoding in _SEVERAL_BYTES else _LOWEST
        return self.per_character >= lowest - _SHORT / math.sqrt(self.characters)


def rank_encodings(sample: bytes) -> list[Guess]:
    """Return the encodings that decode the beginning of a text, the most likely first. Pure, deterministic.

    Args:
        sample: Lines with bytes beyond ASCII; the last character may be cut.

    Cost: up to 10 ms.
    """
    sample = sample[:GUESS_BYTES]
    if sample.isascii():
        return []
    guesses = [*_guess_single_bytes(sample), *_guess_several_bytes(sample)]
    return sorted(guesses, key=lambda guess: -guess.likelihood)


def unicode_cost(text: str) -> float:
    """Return how likely the characters of a text are, whatever its language: a mean as ``Guess.per_character``.

    Text of any script has -3 to -7, bytes in a wrong form of Unicode -9 and less. Pure.
    """
    costs = [-3.0 if char.isascii() and char >= " " else _wide_cost(char, "utf-16-le") for char in text]
    return sum(costs) / len(costs) if costs else -math.inf


class _Class(IntEnum):
    """What a character is, as far as its neighbours matter."""

    SPACE = 0
    MARK = auto()
    """ASCII punctuation."""
    DIGIT = auto()
    LATIN_UPPER = auto()
    LATIN_LOWER = auto()
    CYRILLIC_UPPER = auto()
    CYRILLIC_LOWER = auto()
    GREEK_UPPER = auto()
    GREEK_LOWER = auto()
    GREEK_FINAL = auto()
    HEBREW = auto()
    HEBREW_FINAL = auto()
    ARABIC = auto()
    ARABIC_FINAL = auto()
    POINT = auto()
    """Vowel points of Hebrew and Arabic."""
    THAI = auto()
    THAI_MARK = auto()
    ACCENT = auto()
    """Combining accents."""
    OPENING = auto()
    CLOSING = auto()
    APOSTROPHE = auto()
    GUILLEMET = auto()
    DASH = auto()
    DOTS = auto()
    CURRENCY = auto()
    ORDINAL = auto()
    SYMBOL = auto()
    SUFFIX = auto()
    """Symbols that stand behind a word."""
    BOX = auto()
    """Lines and shades of DOS, of which several stand together."""
    CORNER = auto()
    NO_BREAK = auto()
    SOFT_HYPHEN = auto()
    OTHER = auto()
    BAD = auto()
    """No character of texts: unassigned, a control character, private."""


_LETTERS = range(_Class.LATIN_UPPER, _Class.ACCENT)
_SYMBOLS = frozenset({_Class.SYMBOL, _Class.SUFFIX})
_UPPER = frozenset({_Class.LATIN_UPPER, _Class.CYRILLIC_UPPER, _Class.GREEK_UPPER})
_LOWER = frozenset({_Class.LATIN_LOWER, _Class.CYRILLIC_LOWER, _Class.GREEK_LOWER, _Class.GREEK_FINAL})
_FINAL = frozenset({_Class.GREEK_FINAL, _Class.HEBREW_FINAL, _Class.ARABIC_FINAL})
_SCRIPTS = {
    _Class.LATIN_UPPER: "latin", _Class.LATIN_LOWER: "latin", _Class.ACCENT: "latin",
    _Class.CYRILLIC_UPPER: "cyrillic", _Class.CYRILLIC_LOWER: "cyrillic",
    _Class.GREEK_UPPER: "greek", _Class.GREEK_LOWER: "greek", _Class.GREEK_FINAL: "greek",
    _Class.HEBREW: "hebrew", _Class.HEBREW_FINAL: "hebrew", _Class.ARABIC: "arabic", _Class.ARABIC_FINAL: "arabic",
    _Class.THAI: "thai", _Class.THAI_MARK: "thai",
}  # fmt: skip
_SINGLE = {
    **dict.fromkeys("“„‘‚¿¡µ", _Class.OPENING), "”": _Class.CLOSING, "’": _Class.APOSTROPHE,
    **dict.fromkeys("«»‹›", _Class.GUILLEMET), **dict.fromkeys("–—", _Class.DASH),
    **dict.fromkeys("…·•", _Class.DOTS), **dict.fromkeys("€£¥¢", _Class.CURRENCY),
    **dict.fromkeys("ªº", _Class.ORDINAL), **dict.fromkeys("°§¶†‡±×÷¼½¾№،؟؛´", _Class.SYMBOL),
    **dict.fromkeys("©®™²³¹", _Class.SUFFIX),
    "\xa0": _Class.NO_BREAK, "\xad": _Class.SOFT_HYPHEN, "ς": _Class.GREEK_FINAL,
    **dict.fromkeys("ךםןףץ", _Class.HEBREW_FINAL), **dict.fromkeys("ةى", _Class.ARABIC_FINAL),
    **dict.fromkeys("\u200e\u200f\u200c\u200d", _Class.POINT),
}  # fmt: skip


def _classify(char: str) -> _Class:
    if char in _SINGLE:
        return _SINGLE[char]
    code, category = ord(char), unicodedata.category(char)
    if code < 128:
        if char.isalpha():
            return _Class.LATIN_UPPER if char.isupper() else _Class.LATIN_LOWER
        return _Class.DIGIT if char.isdigit() else _Class.SPACE if code <= 32 else _Class.MARK
    if category in ("Cc", "Cn", "Co", "Cs"):
        return _Class.BAD
    if 0x2500 <= code < 0x25A0:
        return _Class.BOX if char in "─═│║█▓▒░▄▀■" else _Class.CORNER
    script = unicodedata.name(char, "").partition(" ")[0]
    if script == "THAI":
        return _Class.THAI_MARK if category == "Mn" else _Class.THAI if category.startswith("L") else _Class.OTHER
    if category == "Mn":
        return _Class.ACCENT if code < 0x370 else _Class.POINT
    if not category.startswith("L"):
        return _Class.OTHER
    if script in ("HEBREW", "ARABIC"):
        return _Class[script]
    if script in ("LATIN", "CYRILLIC", "GREEK"):
        return _Class[f"{script}_{'UPPER' if char.isupper() else 'LOWER'}"]
    return _Class.OTHER


_BAD_COST = -14.0
_FOREIGN_COST = -7.5
"""A letter that none of the language's words has: names and words of other languages."""


def _place_cost(before: int, this: int, after: int) -> float:
    """Return the cost of a character at its place; of letters, in addition to their frequency."""
    if this in _LETTERS or this == _Class.ACCENT:
        return _letter_cost(_Class(before), _Class(this), _Class(after))
    letters = (before in _LETTERS) + (after in _LETTERS)
    if this == _Class.BAD:
        return _BAD_COST
    if this == _Class.OPENING:
        return -6.0 if before in _LETTERS else -3.2 if after in _LETTERS else -4.0
    if this == _Class.CLOSING:
        return -6.0 if after in _LETTERS else -2.5 if before in _LETTERS or before == _Class.MARK else -4.0
    if this == _Class.APOSTROPHE:
        if letters == 2:
            return {"latin": -2.5, "cyrillic": -4.0}.get(_SCRIPTS.get(_Class(before), ""), -7.0)
        return -3.0 if before in _LETTERS else -5.5
    if this in (_Class.BOX, _Class.CORNER):
        outside = [near for near in (before, after) if near not in (_Class.BOX, _Class.SPACE)]
        return -5.0 - 3.0 * len(outside) + 3.0 * (this == _Class.CORNER and _Class.BOX in (before, after))
    by_letters = {
        _Class.GUILLEMET: (-4.0, -4.0, -6.5), _Class.DASH: (-2.5, -4.5, -5.0), _Class.DOTS: (-3.5, -3.5, -4.5),
        _Class.CURRENCY: (-2.5, -5.0, -9.0), _Class.SYMBOL: (-3.2, -5.5, -9.0), _Class.NO_BREAK: (-1.5, -2.0, -3.5),
        _Class.SUFFIX: (-3.2, -5.5, -9.0), _Class.SOFT_HYPHEN: (-6.0, -6.0, -3.5),
        _Class.ORDINAL: (-6.0, -5.0, -9.0), _Class.OTHER: (-7.0, -8.5, -11.0),
    }  # fmt: skip
    if this in (_Class.SYMBOL, _Class.SUFFIX) and (before in _SYMBOLS or after in _SYMBOLS):
        return -7.0
    if this == _Class.SUFFIX and before in _LETTERS and after not in _LETTERS:
        return -3.8
    if this == _Class.SYMBOL and before in _LETTERS:
        return -7.5 if after not in _LETTERS else -9.0
    if this == _Class.ORDINAL and before == _Class.DIGIT and after not in _LETTERS:
        return -2.5
    return by_letters[_Class(this)][letters] if this in by_letters else 0.0


def _letter_cost(before: _Class, this: _Class, after: _Class) -> float:
    script = _SCRIPTS.get(this)
    others = sum(near in _SCRIPTS and _SCRIPTS[near] != script for near in (before, after))
    cost = -5.0 * others - 1.5 * (_Class.DIGIT in (before, after))
    if before not in _LETTERS and after not in _LETTERS:  # the euro sign and dots are letters elsewhere
        cost -= 2.0 if this in _UPPER else 1.0
    if this in _UPPER:
        cost -= 0.1 + 5.0 * (before in _LOWER) + 3.0 * (before in _UPPER and after in _LOWER)
    elif this in _LOWER:
        cost -= 5.0 * (after in _UPPER)
    if this in _FINAL and _SCRIPTS.get(after) == script:
        cost -= 3.0
    follows_letter = before in _LETTERS or before in (_Class.ACCENT, _Class.POINT)
    if this in (_Class.ACCENT, _Class.POINT):
        cost -= 1.0 if follows_letter else 9.0
    if this == _Class.THAI_MARK and before not in (_Class.THAI, _Class.THAI_MARK):
        cost -= 6.0
    return cost


@dataclass(frozen=True, slots=True)
class _Codec:
    """A single-byte encoding: the class of each byte, and the cost of each byte by language."""

    name: str
    classes: NDArray[Any]
    languages: tuple[str, ...]
    frequencies: Costs
    """One row per language, one column per byte; 0 for bytes that are no letters."""


@functools.cache
def _place_costs() -> Costs:
    import numpy as np

    size = len(_Class)
    return np.array(
        [[[_place_cost(b, t, a) for a in range(size)] for t in range(size)] for b in range(size)]
    )  # fmt: skip


@functools.cache
def _codecs() -> tuple[_Codec, ...]:
    import numpy as np

    found = []
    for name in SINGLE_BYTE:
        chars = [bytes([byte]).decode(name, "replace") for byte in range(256)]
        classes = np.array([_classify_byte(byte, char) for byte, char in enumerate(chars)])
        alphabets = [alphabet for alphabet in ALPHABETS if name in alphabet.encodings]
        rows = [_frequencies(alphabet, chars, classes) for alphabet in alphabets]
        mixed = np.log(np.mean(np.exp(rows), axis=0))
        languages = (*(alphabet.language for alphabet in alphabets), "")
        found.append(_Codec(name, classes, languages, frequencies=np.array([*rows, mixed])))
    return tuple(found)


def _classify_byte(byte: int, char: str) -> _Class:
    """Return the class of a byte: marks between letters are usual only where Windows has them."""
    if char == "\ufffd":
        return _Class.BAD
    return _Class.OTHER if (char, byte) in _UNUSUAL else _classify(char)


_UNUSUAL = frozenset({("\xad", 0xF0), ("·", 0xFA), ("·", 0xE1)})
"""The soft hyphen of DOS, and the dots of DOS and the Macintosh: as letters of Windows they are ``ð``, ``ú``, ``á``."""


def _frequencies(alphabet: Alphabet, chars: list[str], classes: NDArray[Any]) -> Costs:
    import numpy as np

    known = _rank_costs(alphabet.letters, 0.97)
    costs = np.zeros(256)
    for byte in range(128, 256):
        char = chars[byte]
        if classes[byte] in _LETTERS:
            costs[byte] = known.get(char) or known.get(char.lower(), _FOREIGN_COST)
    return costs


def _guess_single_bytes(sample: bytes) -> Iterator[Guess]:
    import numpy as np

    padded = np.frombuffer(b" " + sample + b" ", dtype=np.uint8).astype(np.int64)
    places = np.flatnonzero(padded[1:-1] >= 128) + 1
    keys, counts = np.unique(padded[places - 1] << 16 | padded[places] << 8 | padded[places + 1], return_counts=True)
    before, this, after = keys >> 16, keys >> 8 & 255, keys & 255
    is_repeated = (before == this) & (this == after)
    is_inner = (before >= 128) & (after >= 128)
    is_line = (before == this) | (this == after)
    histogram = np.bincount(this, weights=counts, minlength=256)
    is_mostly_ascii = len(_ASCII_LETTER.findall(sample)) > _MANY_ASCII_LETTERS * len(places)
    costs = _place_costs()
    words = _count_words(sample)
    for codec in _codecs():
        of_this = codec.classes[this]
        placed = costs[codec.classes[before], of_this, codec.classes[after]] @ counts
        placed -= 3.0 * (counts[is_repeated & (of_this < _Class.OPENING)].sum())
        is_latin = (of_this == _Class.LATIN_UPPER) | (of_this == _Class.LATIN_LOWER)
        placed -= 3.0 * counts[is_inner & is_latin].sum()
        placed += 4.0 * counts[is_line & (of_this == _Class.BOX)].sum()
        placed += 2.5 * counts[is_line & (of_this == _Class.DOTS)].sum()
        if is_mostly_ascii:
            is_foreign = np.isin(codec.classes, _FOREIGN_LETTERS)
            is_lone = is_foreign[this] & ~is_foreign[before] & ~is_foreign[after]
            placed -= _LONE_LETTER_COST * counts[is_lone].sum()
        letters = codec.frequencies @ histogram + placed
        gains = np.array([words.get(language, 0.0) for language in codec.languages])
        best = int(np.argmax(letters + gains))
        likelihood = float(letters[best] + gains[best]) + SINGLE_BYTE[codec.name]
        yield Guess(codec.name, likelihood, per_character=float(letters[best]) / len(places), characters=len(places))


_ASCII_LETTER = re.compile(rb"[A-Za-z]")
_MANY_ASCII_LETTERS = 8
_LONE_LETTER_COST = 3.0
"""What a word of one letter of another script costs among words in ASCII; there, ``à`` is more usual."""
_FOREIGN_LETTERS = [int(kind) for kind, script in _SCRIPTS.items() if script != "latin"]

_WORD = re.compile(rb"(?<![A-Za-z\x80-\xff])[A-Za-z]{1,9}(?![A-Za-z\x80-\xff])")
_WORD_GAIN = 1.3
_MOST_WORD_GAIN = 8.0


@functools.cache
def _languages_by_word() -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    for language, words in COMMON_WORDS.items():
        for word in words.split():
            found.setdefault(word.encode(), []).append(language)
    return found


def _count_words(sample: bytes) -> dict[str, float]:
    """Return what the frequent words of a language without special letters say for it."""
    known = _languages_by_word()
    counts = Counter(language for word in _WORD.findall(sample) for language in known.get(word.lower(), ()))
    return {language: min(count * _WORD_GAIN, _MOST_WORD_GAIN) for language, count in counts.items()}


_SEVERAL_BYTES = {
    "cp932": -0.5, "euc_jp": -1.0, "euc_jis_2004": -3.0, "gb18030": -0.5, "big5hkscs": -0.7, "cp949": -0.7,
    "johab": -4.0, "utf-16-le": -8.0, "utf-16-be": -9.0,
}  # fmt: skip

_JAPANESE = ("cp932", "euc_jp", "euc_jis_2004")

_INSIDE_WORD = re.compile(r"(?<=[A-Za-z])[^\x00-\x7f](?=[A-Za-z])")
_LONE_KANA = re.compile(r"(?<![\uff61-\uff9f])[\uff61-\uff9f](?![\uff61-\uff9f])")
_MISPLACED_VOICE = re.compile(r"(?<![\uff73\uff76-\uff84\uff8a-\uff8e])\uff9e|(?<![\uff8a-\uff8e])\uff9f")


def _guess_several_bytes(sample: bytes) -> Iterator[Guess]:
    for name, prior in _SEVERAL_BYTES.items():
        try:
            text = codecs.getincrementaldecoder(name)().decode(sample)
        except UnicodeDecodeError:
            continue
        chars = Counter(char for char in text if not char.isascii())
        size = sum(chars.values())
        if not size:
            continue
        cost = sum(_wide_cost(char, name) * count for char, count in chars.items())
        cost -= 6.0 * len(_INSIDE_WORD.findall(text))
        if name in _JAPANESE:
            cost -= 5.0 * (len(_LONE_KANA.findall(text)) + len(_MISPLACED_VOICE.findall(text)))
        if name.startswith("utf-16"):
            cost += _BAD_COST * sum(char < " " and char not in "\t\r\n" for char in text)
        yield Guess(name, cost + prior, per_character=cost / size, characters=size)


def _rank_costs(letters: str, share: float) -> dict[str, float]:
    """Return the logarithm of each letter's frequency by its rank; all of them make ``share`` of the text."""
    weights = {letter: 1 / (rank + 3) for rank, letter in enumerate(letters)}
    total = sum(weights.values()) / share
    return {letter: math.log(weight / total) for letter, weight in weights.items()}


_HALF_KANA = _rank_costs(COMMON_HALF_KANA, 0.9)


@functools.lru_cache(maxsize=65536)
def _wide_cost(char: str, encoding: str) -> float:
    code = ord(char)
    kind = _classify(char)
    if kind == _Class.BAD or char == "\ufffd":
        return _BAD_COST
    if char in "\t\r\n":
        return -3.0
    if code < 32:
        return _BAD_COST
    is_japanese = encoding in _JAPANESE
    is_wide = encoding.startswith("utf-16")
    if 0x3041 <= code < 0x3100:
        return (-3.2 if code < 0x30A0 else -4.0) if is_japanese or is_wide else -9.0
    if 0xFF61 <= code < 0xFFA0:
        return _HALF_KANA.get(char, -6.0) if is_japanese or is_wide else -12.0
    if 0x3000 <= code < 0x3030 or 0xFF01 <= code < 0xFF5F or char in "“”‘’…—·・":
        return -4.0 if char in "、。，．・：；？！（）「」『』【】《》\u3000“”—…" else -5.5
    if 0x4E00 <= code < 0xA000:
        return _han_cost(char, encoding)
    if 0xAC00 <= code < 0xD7A4:
        return _hangul_cost(char, encoding)
    if is_wide:
        return (
            -9.0
            if kind in (_Class.OTHER, _Class.BOX, _Class.CORNER)
            and unicodedata.category(char) not in ("So", "Lo", "Mc")
            else -4.5
        )
    return -14.0 if len(char.encode(encoding, "replace")) > 2 else -9.0


def _hangul_cost(char: str, encoding: str) -> float:
    if encoding not in ("cp949", "johab") and not encoding.startswith("utf-16"):
        return -16.0
    if char in COMMON_HANGUL:
        return -4.2
    return -7.0 if _encodes(char, "euc_kr") else -13.0


def _han_cost(char: str, encoding: str) -> float:
    if encoding in ("cp949", "johab"):
        return -11.5
    if encoding.startswith("utf-16"):
        return -6.0 if char in COMMON_HAN or char in COMMON_KANJI else -9.5 if _encodes(char, "gbk") else -14.0
    if encoding == "gb18030":
        lead = char.encode("gb18030")
        if len(lead) > 2:
            return -25.0
        is_simple = _encodes(char, "gb2312")
        if char in COMMON_HAN:
            return -5.3 if is_simple else -7.5
        return (-8.3 if lead[0] < 0xD8 else -11.0) if is_simple else -13.0
    if encoding == "big5hkscs":
        lead = char.encode("big5hkscs")
        if char in COMMON_HAN:
            return -5.3
        return -8.5 if 0xA4 <= lead[0] <= 0xC6 else -12.0 if lead[0] >= 0xC9 else -16.0
    if char in COMMON_KANJI:
        return -5.3
    lead = char.encode("cp932", "replace")
    return -8.3 if 0x88 <= lead[0] <= 0x97 else -11.5 if len(lead) == 2 else -14.0


def _encodes(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
