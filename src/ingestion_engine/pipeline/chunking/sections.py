"""Sections: splits a long text into parts that are chunked independently, in bounded time."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator

WINDOW_CHARS = 131_072
"""Longest section. The splitter takes 10 ms for this much ordinary text and 0.5 s for a single word of this length."""

_MIN_CHUNKS = 2
"""Minimum length of a section in chunks: shorter sections would leave many chunks half empty."""

_LINE_CHUNKS = 8
"""Length in chunks from which a section may also end between two lines, for texts without paragraphs (logs, tables)."""

_PARAGRAPH_ODDS, _LINE_ODDS = 8, 16
"""One in this many paragraphs or lines starts a section; sections of prose are then about five chunks long."""

_HASHED_CHARS = 256
"""Characters at the beginning of a line that decide whether it starts a section."""

_NEAR_CHARS = 2 * _HASHED_CHARS
"""Characters known behind a window before any decision: more than a decision depends on."""

_LINE = re.compile(r"[^\n]+\n*|\n+")
_FENCE = re.compile(r" {0,3}(?:```|~~~)")
_HEADING = re.compile(r" {0,3}#{1,6} ")

CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n[^\S\n]*\n\s*",
        r"\n\s*",
        r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]",
        r"[,;:\u2013\u2014]\s+|[\uff0c\uff1b\uff1a\u3001]",
        r"\s+",
    )
)
"""Boundaries for halving a chunk, best first: paragraphs, lines, sentences, clauses, words. A match ends at the cut."""

_MARKS = frozenset({"Mn", "Mc", "Me"})
"""Categories of characters that combine with the previous one."""
_JOINERS = re.compile(
    r"[\u0e33\u0eb3\u1160-\u11ff\u200c\u200d\ud7b0-\ud7fb\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
)
"""Others that do: vowels of Thai and Lao, vowels and final consonants of Hangul in single letters, joiners, the voice
marks of half-width kana, skin tones and tags."""
LONGEST_CHARACTER = 64
"""Code points of a character with its marks, more than any language has; a longer one may be split."""


def cut_sections(pieces: Iterable[str], max_chars: int, *, markdown: bool) -> Iterator[str]:
    """Yield the sections of a text in pieces, each at most ``max(WINDOW_CHARS, 16 * max_chars)`` long.

    Joined they are the whole text, and they do not depend on where the pieces end. A section of at least half a chunk
    ends before a Markdown heading; a longer one ends before a paragraph, or in long runs of lines a line, chosen by its
    hash. Markdown code blocks stay whole unless they are longer than a window. Pure.

    Cost: about 1 s per 30 MB; memory of a section and a piece.
    """
    window = max(WINDOW_CHARS, 16 * max_chars)
    from_headings, shortest, from_lines = max_chars // 2, _MIN_CHUNKS * max_chars, _LINE_CHUNKS * max_chars
    text = _Text(pieces, window + _NEAR_CHARS)
    in_fence = after_blank = False
    while text.find_line():
        length = text.line - text.start
        heading = markdown and not in_fence and length >= from_headings and text.line_matches(_HEADING)
        may_end = length >= shortest and not in_fence
        if heading or (may_end and _starts_section(text.line_head(), after_blank, length >= from_lines)):
            yield text.take(text.line)
            text.find_line()
        if markdown and text.line_matches(_FENCE):
            in_fence = not in_fence
        is_blank, tail = True, ""
        if text.end - text.start > window and text.line > text.start:
            yield text.take(text.line)
            text.find_line()
        while text.end - text.start > window:
            part = text.take(_cut_line(text.known, text.start, text.start + window, line_end=text.end))
            is_blank, tail = is_blank and part.isspace(), part[-2:]
            yield part
            text.find_line()
        rest = text.known[text.line : text.end]
        after_blank = (tail + rest[-2:]).endswith("\n\n") or (is_blank and rest.isspace())
        text.line = text.end
    if text.start < text.end:
        yield text.take(text.end)


class _Text:
    """A text that is read as needed and dropped once its sections are taken."""

    def __init__(self, pieces: Iterable[str], most: int) -> None:
        self.known = ""
        self.start = 0
        """Start of the section in ``known``."""
        self.line = 0
        """Start of the current line, or of its rest when its beginning has been taken."""
        self.end = 0
        """End of the current line, including all empty lines behind it; the end of ``known`` when the line extends
        beyond ``most`` characters from the start."""
        self._pieces = iter(pieces)
        self._most = most

    def find_line(self) -> bool:
        """Find the end of the line, reading more pieces as needed; False at the end of the text."""
        while True:
            found = _LINE.match(self.known, self.line)
            self.end = found.end() if found else self.line
            if self.end < len(self.known) or len(self.known) - self.start > self._most:
                return True
            piece = next(self._pieces, None)
            if piece is None:
                return found is not None
            self.known = self.known[self.start :] + piece
            self.line -= self.start
            self.start = 0

    def line_matches(self, pattern: re.Pattern[str]) -> bool:
        return pattern.match(self.known, self.line, self.end) is not None

    def line_head(self) -> str:
        return self.known[self.line : min(self.end, self.line + _HASHED_CHARS)]

    def take(self, end: int) -> str:
        """Return the section up to ``end``; the next section starts there."""
        section = self.known[self.start : end]
        self.start = end
        self.line = max(self.line, end)
        return section


def _starts_section(line: str, after_blank: bool, lines: bool) -> bool:
    if after_blank:
        odds = _PARAGRAPH_ODDS
    elif lines:
        odds = _LINE_ODDS
    else:
        return False
    return zlib.crc32(line.encode("utf-8", "replace")) % odds == 0


def _cut_line(text: str, start: int, end: int, *, line_end: int) -> int:
    """Return the best end of a window inside a longer line: behind a sentence, else a word, else anywhere."""
    near = max(start, end - 4096)
    for pattern in CUTS[2:]:
        cuts = [found.end() for found in pattern.finditer(text, near, end)]
        whole = [cut for cut in cuts if not splits_character(text, cut)]
        if whole:
            return whole[-1]
    return find_cut(text, end, start=start, end=line_end)


def splits_character(text: str, at: int) -> bool:
    """Return whether the character at a position belongs to the one before it, so that no part may begin there. Pure.

    A mark behind white space belongs to nothing.
    """
    if not 0 < at < len(text):
        return False
    before, char = text[at - 1], text[at]
    if before == "\u200d":
        return not char.isspace()
    if char < "\u0300" or before.isspace():
        return False
    return unicodedata.category(char) in _MARKS or _JOINERS.match(char) is not None


def find_cut(text: str, at: int, *, start: int, end: int) -> int:
    """Return the position that is near, between start and end, and splits no character; ``at`` if there is none. Pure.

    The next one behind, else the next one before.
    """
    behind = range(at, min(at + LONGEST_CHARACTER, end))
    before = range(at - 1, max(at - LONGEST_CHARACTER, start), -1)
    return next((cut for cut in (*behind, *before) if not splits_character(text, cut)), at)
