"""Document → Chunks: cut at the document's own boundaries, with exact offsets.

The document is cut into sections, and every section by semantic-text-splitter. The end of a section depends only on the
text around it (content-defined), so an edit changes the chunks of its section and keeps the ids of all others. It also
bounds the input of the splitter, whose time can grow faster than its input.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ingestion_engine.domain.ids import ObjectId, hash_text, make_object_id, make_point_id
from ingestion_engine.domain.records import Chunk, Document, TextFormat, join_context
from ingestion_engine.domain.spec import Chunking
from ingestion_engine.pipeline.chunking.sections import (
    CUTS,
    LONGEST_CHARACTER,
    cut_sections,
    find_cut,
    splits_character,
)
from ingestion_engine.pipeline.chunking.table_headers import TableHeaders, TableRows, find_header
from ingestion_engine.pipeline.chunking.tokens import TokenLimit

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

_HEADINGS = re.compile(r"(?:\s*+#{1,6} [^\n]*+)++\s*+")


def chunk_document(document: Document, chunking: Chunking, *, limit: TokenLimit | None = None) -> Iterator[Chunk]:
    """Yield the document's chunks in order of ``start_char``, numbered. Pure and deterministic.

    ``chunk.text == document.text[chunk.start_char:chunk.end_char]``, never blank, at most ``chunking.max_chars``
    characters; every character that is not white space is in at least one chunk. Neighbours within a section overlap
    by up to ``overlap_chars``. A chunk that begins within the rows of a Markdown table has the header of the table as
    ``context``.

    Args:
        document: The parsed object.
        chunking: Sizes in characters.
        limit: The longest input of the model. Chunks that exceed it are halved at their best boundary until they fit;
            None relies on the embedder's refusal.

    Cost: about 1 s per 20 MB; memory of one section's chunks.
    """
    return chunk_pieces([document.text], document, chunking, limit=limit)


def chunk_pieces(
    pieces: Iterable[str], document: Document, chunking: Chunking, *, limit: TokenLimit | None = None
) -> Iterator[Chunk]:
    """Yield the chunks of ``chunk_document`` for a text in pieces instead of ``document.text``.

    Cost: memory of one section, one piece, and about 100 bytes per chunk.
    """
    starts = [span.start_char for span in document.pages]
    numbers = [span.page for span in document.pages]
    pages_end = document.pages[-1].end_char if document.pages else 0
    markdown = document.text_format is TextFormat.MARKDOWN
    splitter = _make_splitter(document.text_format, chunking)

    numbered = _Numbered(make_object_id(document.ref.bucket, document.ref.key))
    headers = TableHeaders(_most_context(chunking.max_chars))
    offset = 0
    for section in cut_sections(pieces, chunking.max_chars, markdown=markdown):
        ranges = _cut_section(section, splitter, chunking.max_chars, markdown=markdown)
        tables = _keep_short(headers.read(section), limit) if markdown else []
        fitting = [part for start, end in ranges for part in _fit(section, start, end, limit=limit, tables=tables)]
        for start, end in _drop_contained(fitting):
            at = bisect.bisect_right(starts, offset + start) - 1
            page = numbers[at] if at >= 0 and offset + start < pages_end else None
            context = find_header(tables, start) if tables else ""
            yield numbered.next(section[start:end], offset + start, offset + end, page=page, context=context)
        offset += len(section)


def number_chunks(object_id: ObjectId, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks in order, with their index, content hash and point id in the object.

    The n-th chunk with the same text gets occurrence n. Cost: memory of about 80 bytes per chunk.
    """
    numbered = _Numbered(object_id)
    for chunk in chunks:
        yield numbered.next(chunk.text, chunk.start_char, chunk.end_char, page=chunk.page, context=chunk.context)


class _Numbered:
    """Creates the chunks of one object in order."""

    def __init__(self, object_id: ObjectId) -> None:
        self._object_id = object_id
        self._seen: dict[int, int] = {}
        self._index = 0

    def next(self, text: str, start_char: int, end_char: int, *, page: int | None, context: str) -> Chunk:
        digest = hash_text(text)
        # A third of the digest's memory; texts with the same short digest still get different ids.
        short = int(digest[:15], 16)
        occurrence = self._seen.get(short, 0)
        self._seen[short] = occurrence + 1
        index, self._index = self._index, self._index + 1
        point_id = make_point_id(self._object_id, digest, occurrence)
        return Chunk(
            point_id=point_id,
            index=index,
            text=text,
            start_char=start_char,
            end_char=end_char,
            content_hash=digest,
            page=page,
            context=context,
        )


def split_refused(chunk: Chunk) -> tuple[Chunk, Chunk] | None:
    """Return the halves of a chunk that the embedder refused, cut at the best boundary near its middle, or None.

    Neither half has white space at its ends; both keep the chunk's page, index, hash and id until ``number_chunks``.
    A half that begins within the rows of a table has its header as context. Pure.
    """
    parts = _halve(chunk.text, 0, len(chunk.text))
    if parts is None:
        return None
    tables = TableHeaders(max(_most_context(len(chunk.text)), len(chunk.context)), chunk.context).read(chunk.text)
    first, second = (
        dataclasses.replace(
            chunk,
            text=chunk.text[start:end],
            start_char=chunk.start_char + start,
            end_char=chunk.start_char + end,
            context=find_header(tables, start),
        )
        for start, end in parts
    )
    return first, second


_CONTEXT_SHARE = 0.25
"""Part of a chunk, in characters and in tokens of the model, that the header of a table may take before it is left out:
what is said in every chunk must not be most of what they say."""


def _most_context(max_chars: int) -> int:
    return int(max_chars * _CONTEXT_SHARE)


def _keep_short(tables: list[TableRows], limit: TokenLimit | None) -> list[TableRows]:
    """Return the tables whose header takes a small part of the longest input of the model."""
    if limit is None:
        return tables
    most = _CONTEXT_SHARE * limit.context_length
    return [rows for rows in tables if limit.count_tokens(rows.header) <= most]


def _cut_section(
    section: str, splitter: MarkdownSplitter | TextSplitter, max_chars: int, *, markdown: bool
) -> list[tuple[int, int]]:
    """Return the half-open ranges of a section's chunks, before they are fitted to the model."""
    pieces: list[tuple[int, int]] = []
    covered = 0
    for start, text in _split(section, splitter, max_chars):
        if section[covered:start].strip():  # never observed, but omitted text would go unnoticed
            pieces += _fill_gap(section, covered, start, max_chars=max_chars)
        end = start + len(text)
        covered = max(covered, end)
        if splits_character(section, start) or splits_character(section, end):
            pieces += _widen(section, start, end, max_chars=max_chars)
        elif text.strip():
            pieces.append((start, end))
    if section[covered:].strip():
        pieces += _fill_gap(section, covered, len(section), max_chars=max_chars)
    return _join_headings(section, pieces, max_chars) if markdown else pieces


def _widen(section: str, start: int, end: int, *, max_chars: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a chunk that the splitter cut within a character: its words end before some marks."""
    first, last = (find_cut(section, cut, start=max(cut - LONGEST_CHARACTER, -1), end=cut + 1) for cut in (start, end))
    yield from _fill_gap(section, first, last if last > first else end, max_chars=max_chars)


_STRIDE = 16
_LONG_BLANKS = re.compile(r"(?<!\s)\s{144,}+")
_SAMPLED_BLANKS = re.compile(r"\s{8}")
_INDENTATION = 8
"""White space in front of a part that the splitter sees: more of it means nothing to Markdown."""
_MOST_SQUARES = 10_000_000
"""Sum of the squares of the lengths of white space in a section that the splitter may see: 0.4 s. Eight kilobytes of
blank lines in a row are 64 million, and documents have hardly more than a few hundred characters in a row."""


def _split(section: str, splitter: MarkdownSplitter | TextSplitter, max_chars: int) -> list[tuple[int, str]]:
    """Return what the splitter makes of a section: the start of every chunk and a text of its length.

    Two faults of semantic-text-splitter 0.33 are avoided. With an overlap, its time grows with the square of the length
    of white space with line ends (30 s for 40 kB): it gets the parts before and behind it. Some Markdown with an
    overlap makes it panic ("Invalid byte sequence"): its splitter for plain text takes that part.
    """
    if not has_long_blanks(section):
        return _split_part(section, splitter, max_chars)
    return [
        (start + at, text)
        for start, end in _find_parts(section, max_chars)
        for at, text in _split_part(section[start:end], splitter, max_chars)
    ]


def _split_part(part: str, splitter: MarkdownSplitter | TextSplitter, max_chars: int) -> list[tuple[int, str]]:
    from semantic_text_splitter import TextSplitter

    try:
        return splitter.chunk_indices(part)
    except BaseException as error:  # a panic of Rust is not an Exception, and its class cannot be imported
        if type(error).__name__ != "PanicException":
            raise
    return TextSplitter(max_chars).chunk_indices(part)


def has_long_blanks(text: str) -> bool:
    """Return True for every text with 144 or more white space in a row, and for few others. Pure.

    Cost: 10 ns per ``_STRIDE`` characters: such white space covers eight neighbours of those that are looked at.
    """
    return _SAMPLED_BLANKS.search(text[::_STRIDE]) is not None


def _find_parts(section: str, max_chars: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a section between white space that takes the splitter long.

    No chunk reaches across as many blanks as it may have characters. Where a section has much white space that is
    shorter, it is divided at that too.
    """
    blanks = [found.span() for found in _LONG_BLANKS.finditer(section)]
    squares = sum((end - start) ** 2 for start, end in blanks if end - start < max_chars)
    shortest = max_chars if squares <= _MOST_SQUARES else 0
    begin = 0
    for start, end in blanks:
        if end - start >= shortest:
            if start > begin:
                yield begin, start
            begin = end - _INDENTATION
    yield begin, len(section)


def _join_headings(text: str, pieces: list[tuple[int, int]], max_chars: int) -> list[tuple[int, int]]:
    """Return the ranges; a range of only headings is joined to the next one if both fit into one chunk."""
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        if joined and end - joined[-1][0] <= max_chars and _HEADINGS.fullmatch(text, *joined[-1]):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _drop_contained(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges by start, without ranges inside another one, which halving overlapping chunks creates."""
    covered = -1
    for start, end in sorted(pieces, key=lambda piece: (piece[0], -piece[1])):
        if end > covered:
            covered = end
            yield start, end


def _make_splitter(text_format: TextFormat, chunking: Chunking) -> MarkdownSplitter | TextSplitter:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind = MarkdownSplitter if text_format is TextFormat.MARKDOWN else TextSplitter
    return kind(chunking.max_chars, chunking.overlap_chars)


def _fill_gap(section: str, start: int, end: int, *, max_chars: int) -> Iterator[tuple[int, int]]:
    while start < end:
        cut = start + max_chars
        cut = end if cut >= end else find_cut(section, cut, start=start, end=cut + 1)
        piece = _strip(section, start, cut)
        if piece:
            yield piece
        start = cut


def _fit(
    text: str, start: int, end: int, *, limit: TokenLimit | None, tables: list[TableRows]
) -> Iterator[tuple[int, int]]:
    """Yield a range that is not blank, halved until each part fits, with its context, or cannot be halved."""
    if limit is None or limit.fits(join_context(find_header(tables, start) if tables else "", text[start:end])):
        yield start, end
        return
    parts = _halve(text, start, end)
    if parts is None:
        yield _strip(text, start, end) or (start, end)
        return
    for part in parts:
        yield from _fit(text, *part, limit=limit, tables=tables)


def _strip(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return the range without white space at its ends; None for a blank range."""
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    if left == len(piece):
        return None
    return start + left, start + len(piece.rstrip())


def _halve(text: str, start: int, end: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the halves of a range at the best boundary in its middle half; None for a single character."""
    start, end = _strip(text, start, end) or (start, start)
    middle = (start + end) // 2
    quarter = (end - start) // 4
    for pattern in CUTS:
        cuts = (found.end() for found in pattern.finditer(text, start + quarter, end - quarter))
        whole = (cut for cut in cuts if not splits_character(text, cut))
        best = min(whole, key=lambda cut: (abs(cut - middle), cut), default=None)
        if best is not None:
            parts = _strip(text, start, best), _strip(text, best, end)
            if parts[0] and parts[1]:
                return parts[0], parts[1]
    cut = find_cut(text, middle, start=start, end=end)
    if splits_character(text, cut) and end - start <= LONGEST_CHARACTER:
        return None
    parts = _strip(text, start, cut), _strip(text, cut, end)
    return (parts[0], parts[1]) if parts[0] and parts[1] else None
