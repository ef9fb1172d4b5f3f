"""CSV and other tables to text: one line per row with the column names, so that every passage is self-contained."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence

from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.pieces import Growth, join_lines, split_lines, take_head

_DELIMITERS = ",;\t|"
_PROBE_CHARS = 64 * 1024


def read_csv(text: str) -> ParsedText:
    """Return every row of a delimited table as one line; the delimiter is detected.

    Raises:
        ObjectError: ``decompressed_too_large`` when very long column names make the text out of proportion.

    Cost: about 1 s per 20 MB.
    """
    return ParsedText("".join(render_csv([text])))


def render_csv(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of ``read_csv`` for a table in pieces. Cost: memory of a few pieces and one row."""
    csv.field_size_limit(2**31 - 1)  # a cell may be a whole document; the largest value that every platform accepts
    growth = Growth()
    head, pieces = take_head(growth.count(pieces), _PROBE_CHARS)
    delimiter = _find_delimiter(head)
    if delimiter is None:
        return pieces
    return growth.limit(join_lines(render_rows(csv.reader(split_lines(pieces), delimiter=delimiter))))


def _find_delimiter(head: str) -> str | None:
    """Return the delimiter with the most rows of one width above one; None when no delimiter gives such rows."""
    best, best_score = None, 0.0
    for delimiter in _DELIMITERS:
        if delimiter not in head:
            continue
        rows = [
            row for row in itertools.islice(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), 100) if row
        ]
        widths = [len(row) for row in rows]
        common = max(set(widths), key=lambda width: (widths.count(width), width))
        share = widths.count(common) / len(widths)
        score = share * min(common, 10) if common > 1 else 0.0
        if score > best_score:
            best, best_score = delimiter, score
    return best


def render_rows(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield one line per row that is not blank: ``name: Ada; city: London``.

    The first row has the names if all its cells are filled and different and none is a number; otherwise cells are
    joined by `` | ``. Empty cells are omitted. Line breaks inside cells become spaces.
    """
    filled = (cells for row in rows if any(cells := [" ".join(cell.split()) for cell in row]))
    first = next(filled, None)
    if first is None:
        return
    header = _trim(first)
    if not _is_header(header):
        for cells in itertools.chain([first], filled):
            yield " | ".join(cell for cell in cells if cell)
        return
    empty = True
    for cells in filled:
        empty = False
        named = (f"{name}: {cell}" for name, cell in zip(header, cells, strict=False) if cell)
        yield "; ".join(itertools.chain(named, filter(None, cells[len(header) :])))
    if empty:
        yield " | ".join(header)


def _trim(cells: list[str]) -> list[str]:
    """Return the cells without empty ones at the end."""
    end = len(cells)
    while end and not cells[end - 1]:
        end -= 1
    return cells[:end]


def _is_header(cells: list[str]) -> bool:
    return (
        len(cells) > 1 and all(cells) and len(set(cells)) == len(cells) and not any(_is_number(cell) for cell in cells)
    )


def _is_number(cell: str) -> bool:
    return any(char.isdigit() for char in cell) and all(char in "0123456789.,+-%/: eE$€£" for char in cell)
