"""The text of one page, in the order and with the lines in which PDFium finds it."""

from __future__ import annotations

import ctypes
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pypdfium2.raw as pdfium

from ingestion_engine.pipeline.parsing.formats.pdf.library import Handle, decode_utf16, open_text

_LINE_END = re.compile(r"\r\n?|\n")
_HYPHEN = "\ufffe"
"""PDFium's mark for a hyphen that divides a word at the end of a line; the next line follows it at once."""
_WORD_CHARS = 100
"""Characters before such a hyphen that are searched for another one in the same word."""
_PRIVATE = re.compile(r"[\ue000-\uf8ff\U000f0000-\U0010ffff]")
"""Private characters: the font says which glyph it is, not which letter."""

_PUNCTUATION = {0x91: "\u2018", 0x92: "\u2019", 0x93: "\u201c", 0x94: "\u201d", 0x96: "\u2013", 0x97: "\u2014"}
"""Codes of Windows-1252 that a font without a mapping leaves as they are; PDFium leaves some of them out."""

_LIGATURES = {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl"}
_UNNAMED = {
    0x03: " ",  # the third glyph of TrueType fonts
    **dict(zip((0x0B, 0x0C, 0x1B, 0x1C, 0x1D), "\ufb00\ufb01\ufb00\ufb01\ufb02", strict=True)),  # TeX's OT1 and T1
    **dict(zip((0x0E, 0x0F, 0x1E), "\ufb03\ufb04\ufb03", strict=True)),
    0x10: "\u201c",
    0x11: "\u201d",
}
"""Control codes of fonts without a mapping, as the fonts use them that have such codes most often. 0x0D is not among
them: elsewhere it ends a line."""

_CONTROLS = frozenset(map(chr, range(0x01, 0x20))) - frozenset("\t\n\r")
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f]")

_SAMPLES = 64
"""Characters per page that are tested for a mapping before all are: 0.04 ms instead of 2 ms on a full page."""

_WORD_GAP = 0.15
"""Distance of two words as a share of the line's height; letters of one word are closer. A guess."""

_SAME_LINE = 0.1
"""Difference of two baselines in points, 1/72 inch, up to which they are the same."""


@dataclass(frozen=True, slots=True)
class PageText:
    """A page's text, and how much of it is not what the page shows."""

    text: str
    characters: int
    """Characters that the page shows, spaces and line ends included."""
    unmapped: int
    """Those whose font does not say which letters they are."""


@contextmanager
def open_upright_text(page: Handle, number: int) -> Iterator[Handle]:
    """Give the characters of a page, turned so that most of its text is upright; raises as ``open_text``.

    PDFium puts lines in order as the page shows them, and lines that run downwards in reverse.
    """
    with open_text(page, number) as text:
        turn = _text_turn(text)
        if turn is None or -turn % 4 == pdfium.FPDFPage_GetRotation(page):
            yield text
            return
    pdfium.FPDFPage_SetRotation(page, -turn % 4)
    with open_text(page, number) as text:
        yield text


def _text_turn(text: Handle) -> int | None:
    """Return by how many quarters most of the text is turned clockwise on the page as stored; None without text."""
    count = pdfium.FPDFText_CountChars(text)
    turns: Counter[int] = Counter()
    for index in range(0, max(0, count), max(1, count // _SAMPLES)):
        if pdfium.FPDFText_IsGenerated(text, index) != 1:
            turns[round(pdfium.FPDFText_GetCharAngle(text, index) / (math.pi / 2)) % 4] += 1
    return turns.most_common(1)[0][0] if turns else None


def read_page_text(handle: Handle) -> PageText:
    """Return all text of a page, also outside its visible box and invisible under a scanned picture.

    Lines end as on the page. A word divided at the end of a line is one word. A piece that continues its line, as
    behind a raised number, stays on it.

    Args:
        handle: The page's characters, from ``open_text``.

    Cost: 0.1 ms for a page of 3,000 characters whose text PDFium has found; 3 ms where it contains characters beyond
    U+FFFF or without a code, which are asked for one by one.
    """
    count = pdfium.FPDFText_CountChars(handle)
    if count <= 0:
        return PageText("", 0, 0)
    text = _get_text(handle, count)
    positions: Sequence[int] = range(count)
    if len(text) != count:  # PDFium's text leaves out what UTF-16 writes in two units
        text, positions = _get_characters(handle, count)
    unmapped = _find_unmapped(handle, count, text)
    if unmapped:
        text = _name_controls(text, positions, unmapped)
    joined = _join_words("".join(_lines(handle, text, positions)))
    for ligature, letters in _LIGATURES.items():
        joined = joined.replace(ligature, letters)
    return PageText(joined, count, min(count, len(unmapped) + len(_PRIVATE.findall(text))))


def _get_text(handle: Handle, count: int) -> str:
    buffer = (ctypes.c_ushort * (count + 1))()
    written = pdfium.FPDFText_GetText(handle, 0, count, buffer)
    return bytes(buffer)[: 2 * max(0, written - 1)].decode("utf-16-le", "surrogatepass")


def _get_characters(handle: Handle, count: int) -> tuple[str, Sequence[int]]:
    """Return the page's characters, and the index that each has in PDFium."""
    characters: list[str] = []
    positions: list[int] = []
    for index in range(count):
        code = pdfium.FPDFText_GetUnicode(handle, index)
        if code == 0x2 and pdfium.FPDFText_IsHyphen(handle, index) == 1:
            character = _HYPHEN
        elif code in (0x0, 0xFFFE) or code > 0x10FFFF or (code in (0x2, 0x3) and not _is_unmapped(handle, index)):
            continue
        else:
            character = _PUNCTUATION.get(code, chr(code))
        if "\udc00" <= character <= "\udfff" and characters and "\ud800" <= characters[-1] <= "\udbff":
            halves = (characters[-1] + character).encode("utf-16-le", "surrogatepass")
            characters[-1] = decode_utf16(halves)
        else:
            characters.append(character)
            positions.append(index)
    return "".join(characters), positions


def _find_unmapped(handle: Handle, count: int, text: str) -> frozenset[int]:
    """Return the indexes of characters whose font names no letters; empty for a page with hardly any."""
    samples = range(0, count, -(-count // _SAMPLES))
    if not _CONTROL.search(text) and not any(_is_unmapped(handle, index) for index in samples):
        return frozenset()
    return frozenset(index for index in range(count) if _is_unmapped(handle, index))


def _is_unmapped(handle: Handle, index: int) -> bool:
    return bool(pdfium.FPDFText_HasUnicodeMapError(handle, index) == 1)  # -1 means no such character


def _name_controls(text: str, positions: Sequence[int], unmapped: frozenset[int]) -> str:
    """Return the text with letters in the place of unmapped control codes, as far as they are known. Pure.

    Between two letters another code becomes U+FFFD, so that two parts never pass for a word; signs elsewhere, such as
    large brackets of formulas, are left out by the cleaning.
    """
    characters = list(text)
    for at, position in enumerate(positions):
        if characters[at] not in _CONTROLS or position not in unmapped:
            continue
        before, behind = text[at - 1 : at], text[at + 1 : at + 2]
        letter = _UNNAMED.get(ord(characters[at]), "\ufffd")
        if letter in _LIGATURES and not (before.islower() or behind.islower()):
            letter = "\ufffd"
        is_kept = letter != "\ufffd" or (before.isalnum() and behind.isalnum())
        characters[at] = letter if is_kept else "\0"
    return "".join(characters)


def _lines(handle: Handle, text: str, positions: Sequence[int]) -> Iterator[str]:
    r"""Yield the text with ``\n`` at the ends of lines, and what is needed between two pieces of the same line."""
    begin = line_begin = 0
    for found in _LINE_END.finditer(text):
        yield text[begin : found.start()]
        begin = found.end()
        between = "\n"
        if line_begin < found.start() and begin < len(text):
            between = _separate(handle, positions[line_begin], positions[found.start() - 1], after=positions[begin])
            if not between and text[found.start() - 1].isalnum() and text[begin].isalnum():
                between = "\n"  # a word that is cut is better than two that are one
        yield between
        if between == "\n":
            line_begin = begin
    yield text[begin:]


def _separate(handle: Handle, first: int, last: int, *, after: int) -> str:
    r"""Return what stands between the last character of a line and the one after it: ``\n``, a space, or nothing.

    A raised or lowered number stays apart from the word before it, as PDFium has it: ``112`` and its note ``3``.
    """
    baseline = _baseline(handle, after)
    if abs(_baseline(handle, first) - baseline) > _SAME_LINE:
        return "\n"
    left, right = _box(handle, last), _box(handle, after)
    height = max(left.top - left.bottom, right.top - right.bottom)
    if abs(_baseline(handle, last) - baseline) > _SAME_LINE and right.top - right.bottom < height:
        return "\n"
    overlaps = min(left.top, right.top) > max(left.bottom, right.bottom)
    if not overlaps or right.left < left.right - height:
        return "\n"
    return " " if right.left - left.right > _WORD_GAP * height else ""


def _baseline(handle: Handle, index: int) -> float:
    x, y = ctypes.c_double(), ctypes.c_double()
    pdfium.FPDFText_GetCharOrigin(handle, index, x, y)
    return y.value


def _box(handle: Handle, index: int) -> pdfium.FS_RECTF:
    box = pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(handle, index, box)
    return box


def _join_words(text: str) -> str:
    """Return the text with divided words whole; with the hyphen where it belongs to the word: ``COVID-19``. Pure."""
    first, *others = text.split(_HYPHEN)
    parts = [first]
    for second in others:
        parts.append("-" if _keeps_hyphen(parts[-1][-_WORD_CHARS:], second[:1]) else "")
        parts.append(second)
    return "".join(parts)


def _keeps_hyphen(before: str, following: str) -> bool:
    if not following.isalpha():
        return True
    word = before.rpartition(" ")[2].rpartition("\n")[2]
    return "-" in word or (following.isupper() and word[-1:].islower())
