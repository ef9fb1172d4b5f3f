"""Document → Chunks: cut at the document's own boundaries, with exact offsets.

First into sections, then every section by semantic-text-splitter. Where a section ends is decided by the text around
that place alone (content-defined), so an edit changes the chunks of its section and leaves the ids of the others;
and the splitter, whose time grows faster than its input in places, never sees more than ``WINDOW_CHARS`` at once.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ingestion_engine.domain.ids import ObjectId, PointId, hash_text, make_object_id, make_point_id
from ingestion_engine.domain.records import Chunk, Document, TextFormat
from ingestion_engine.domain.spec import Chunking
from ingestion_engine.pipeline.tokens import probably_fits

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

WINDOW_CHARS = 131_072
"""Longest section. The splitter takes 10 ms for so much ordinary text and 0.5 s for a single word of that length."""

_MIN_CHUNKS = 2
"""A section is at least so many chunks long: shorter ones would leave many chunks half empty."""

_LINE_CHUNKS = 8
"""From this length on a section may also end between two lines, for texts without paragraphs (logs, tables)."""

_PARAGRAPH_ODDS, _LINE_ODDS = 8, 16
"""One in so many paragraphs, lines starts a section; sections of prose are then about five chunks long."""

_LINE = re.compile(r"[^\n]+\n*|\n+")
_FENCE = re.compile(r" {0,3}(?:```|~~~)")
_HEADING = re.compile(r" {0,3}#{1,6} ")
_HEADINGS = re.compile(r"(?:\s* {0,3}#{1,6} [^\n]*)+\s*")

_CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n[^\S\n]*\n\s*",
        r"\n\s*",
        r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]",
        r"[,;:\u2013\u2014]\s+|[\uff0c\uff1b\uff1a\u3001]",
        r"\s+",
    )
)
"""Where to halve a chunk, best first: paragraphs, lines, sentences, clauses, words. A cut is behind the match."""

_JOINERS = re.compile(r"[\u0300-\u036f\u200d\ufe00-\ufe0f\u20d0-\u20ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
"""Characters that belong to the one before them."""


def chunk_document(document: Document, chunking: Chunking, *, context_length: int | None = None) -> Iterator[Chunk]:
    """Yield the document's chunks in order of ``start_char``, numbered. Pure and deterministic.

    ``chunk.text == document.text[chunk.start_char:chunk.end_char]``, never blank, at most ``chunking.max_chars``
    characters; every character that is not white space is in at least one chunk. Neighbours within a section share
    up to ``overlap_chars``.

    Args:
        document: The parsed object.
        chunking: Sizes in characters.
        context_length: The model's longest input in tokens. Chunks that probably exceed it (``estimate_tokens``) are
            halved at their best boundary until they do not; None leaves it to the embedder's refusal.

    Cost: about 1 s per 20 MB; memory of one section's chunks.
    """
    starts = [span.start_char for span in document.pages]
    numbers = [span.page for span in document.pages]

    def provisional() -> Iterator[Chunk]:
        for start, end in _cut_pieces(document, chunking, context_length):
            at = bisect.bisect_right(starts, start) - 1
            page = numbers[at] if at >= 0 else None
            yield Chunk(PointId(""), 0, document.text[start:end], start, end, "", page)

    return number_chunks(make_object_id(document.ref.bucket, document.ref.key), provisional())


def number_chunks(object_id: ObjectId, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks, in their order, with the index, content hash and point id that are theirs in the object.

    The n-th chunk with the same text gets occurrence n. Cost: memory of one hash per chunk.
    """
    seen: dict[str, int] = {}
    for index, chunk in enumerate(chunks):
        digest = hash_text(chunk.text)
        occurrence = seen.get(digest, 0)
        seen[digest] = occurrence + 1
        point_id = make_point_id(object_id, digest, occurrence)
        yield Chunk(point_id, index, chunk.text, chunk.start_char, chunk.end_char, digest, chunk.page)


def split_refused(chunk: Chunk) -> tuple[Chunk, Chunk] | None:
    """Halve a chunk that the embedder refused, at the best boundary near its middle; None when it cannot be.

    Both parts are free of white space at their ends; their page, index, hash and id are the whole's until
    ``number_chunks``. Pure.
    """
    parts = _halve(chunk.text, 0, len(chunk.text))
    if parts is None:
        return None
    first, second = (
        dataclasses.replace(
            chunk, text=chunk.text[start:end], start_char=chunk.start_char + start, end_char=chunk.start_char + end
        )
        for start, end in parts
    )
    return first, second


def _cut_pieces(document: Document, chunking: Chunking, context_length: int | None) -> Iterator[tuple[int, int]]:
    """Half-open ranges of the document's chunks."""
    splitter = _make_splitter(document.text_format, chunking)
    markdown = document.text_format is TextFormat.MARKDOWN
    for section_start, section_end in cut_sections(document.text, chunking.max_chars, markdown=markdown):
        section = document.text[section_start:section_end]
        pieces: list[tuple[int, int]] = []
        covered = 0
        for start, text in splitter.chunk_indices(section):
            if section[covered:start].strip():  # never seen, but nothing would show if the splitter left text out
                pieces += _fill_gap(section, covered, start, section_start, chunking.max_chars)
            end = start + len(text)
            covered = max(covered, end)
            if text.strip():
                pieces.append((section_start + start, section_start + end))
        if section[covered:].strip():
            pieces += _fill_gap(section, covered, len(section), section_start, chunking.max_chars)
        if markdown:
            pieces = _join_headings(document.text, pieces, chunking.max_chars)
        fitting = [part for start, end in pieces for part in _fit(document.text, start, end, context_length)]
        yield from _drop_contained(fitting)


def _join_headings(text: str, pieces: list[tuple[int, int]], max_chars: int) -> list[tuple[int, int]]:
    """The ranges, a range of headings alone joined to the one behind it when both fit: a heading says nothing alone."""
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        if joined and end - joined[-1][0] <= max_chars and _HEADINGS.fullmatch(text, *joined[-1]):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _drop_contained(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges in order of their starts, without those inside another one: halving overlapping chunks makes such."""
    covered = -1
    for start, end in sorted(pieces, key=lambda piece: (piece[0], -piece[1])):
        if end > covered:
            covered = end
            yield start, end


def _make_splitter(text_format: TextFormat, chunking: Chunking) -> MarkdownSplitter | TextSplitter:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind = MarkdownSplitter if text_format is TextFormat.MARKDOWN else TextSplitter
    return kind(chunking.max_chars, chunking.overlap_chars)


def _fill_gap(section: str, start: int, end: int, offset: int, max_chars: int) -> Iterator[tuple[int, int]]:
    for at in range(start, end, max_chars):
        piece = _strip(section, at, min(at + max_chars, end))
        if piece:
            yield offset + piece[0], offset + piece[1]


def cut_sections(text: str, max_chars: int, *, markdown: bool) -> Iterator[tuple[int, int]]:
    """Yield half-open ranges that join to the whole text, each at most ``max(WINDOW_CHARS, 16 * max_chars)`` long.

    A section ends before a heading of Markdown once it is half a chunk long, and before a paragraph or (in long runs of
    lines) a line whose hash says so; code blocks of
    Markdown stay whole unless they are longer than a window. Pure. Cost: about 1 s per 30 MB.
    """
    window = max(WINDOW_CHARS, 16 * max_chars)
    from_headings, shortest, from_lines = max_chars // 2, _MIN_CHUNKS * max_chars, _LINE_CHUNKS * max_chars
    start = 0
    in_fence = False
    after_blank = False
    for found in _LINE.finditer(text):
        at, end = found.span()
        length = at - start
        heading = markdown and not in_fence and length >= from_headings and _HEADING.match(text, at, end)
        may_end = length >= shortest and not in_fence
        if heading or (may_end and _starts_section(found.group(), after_blank, length >= from_lines)):
            yield start, at
            start = at
        if end - start > window:
            if at > start:
                yield start, at
                start = at
            while end - start > window:
                cut = _cut_line(text, start, start + window)
                yield start, cut
                start = cut
        if markdown and _FENCE.match(text, at, end):
            in_fence = not in_fence
        after_blank = text.endswith("\n\n", at, end) or found.group().isspace()
    if start < len(text):
        yield start, len(text)


def _starts_section(line: str, after_blank: bool, lines: bool) -> bool:
    if after_blank:
        odds = _PARAGRAPH_ODDS
    elif lines:
        odds = _LINE_ODDS
    else:
        return False
    return zlib.crc32(line[:256].encode("utf-8", "replace")) % odds == 0


def _cut_line(text: str, start: int, end: int) -> int:
    """The best place to end a window inside a longer line: behind a sentence, else a word, else anywhere."""
    near = max(start, end - 4096)
    for pattern in _CUTS[2:]:
        cuts = [found.end() for found in pattern.finditer(text, near, end)]
        if cuts:
            return cuts[-1]
    return _skip_joiners(text, end, len(text))


def _fit(text: str, start: int, end: int, context_length: int | None) -> Iterator[tuple[int, int]]:
    """The range, halved until no part probably exceeds the context length."""
    piece = _strip(text, start, end)
    if piece is None:
        return
    if context_length is None or probably_fits(text[piece[0] : piece[1]], context_length):
        yield start, end
        return
    parts = _halve(text, *piece)
    if parts is None:
        yield piece
        return
    for part in parts:
        yield from _fit(text, *part, context_length)


def _strip(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The range without white space at its ends; None when it is blank."""
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    if left == len(piece):
        return None
    return start + left, start + len(piece.rstrip())


def _halve(text: str, start: int, end: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Two ranges at the best boundary in the middle half of a range; None when one of them would be blank."""
    start, end = _strip(text, start, end) or (start, start)
    middle = (start + end) // 2
    quarter = (end - start) // 4
    for pattern in _CUTS:
        cuts = (found.end() for found in pattern.finditer(text, start + quarter, end - quarter))
        best = min(cuts, key=lambda cut: (abs(cut - middle), cut), default=None)
        if best is not None:
            parts = _strip(text, start, best), _strip(text, best, end)
            if parts[0] and parts[1]:
                return parts[0], parts[1]
    for cut in (_skip_joiners(text, middle, end), middle):
        parts = _strip(text, start, cut), _strip(text, cut, end)
        if parts[0] and parts[1]:
            return parts[0], parts[1]
    return None


def _skip_joiners(text: str, at: int, end: int) -> int:
    """The first place from ``at`` on that does not tear a character from its accents; ``at`` if none is near."""
    for cut in range(at, min(at + 16, end)):
        if not _JOINERS.match(text, cut) and not (cut and text[cut - 1] == "\u200d"):
            return cut
    return at
