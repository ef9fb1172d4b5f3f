"""Tables of documents (Word, PowerPoint, charts) as lines of Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

MOST_CELLS = 1_000
"""Cells of a row that are kept apart, as many as Word, Excel and PowerPoint write at most between them in a table of
text (a guess); declared spans may be any number."""


def render_table(rows: Sequence[Sequence[str]], *, has_header: bool | None = None) -> str:
    r"""Return a table as Markdown with its header, or without one as lines of filled cells. Pure.

    With a header the lines are ``| name | city |``, ``| --- | --- |``, ``| Ada | London |``: every cell has its place,
    a ``|`` inside one is ``\|``, and chunking repeats the header as context. Without one they are ``Ada | London``.
    White space inside cells becomes one blank; blank rows and columns are omitted.

    Args:
        rows: Texts of the cells; rows may have different lengths.
        has_header: Whether the first row names the columns; None decides by its cells: filled, except the first, and
            different, and no numbers.
    """
    filled = [cells for row in rows if any(cells := [" ".join(cell.split()) for cell in row])]
    if not filled:
        return ""
    width = max(map(len, filled))
    used = [any(column) for column in itertools.zip_longest(*filled, fillvalue="")]
    table = [[*itertools.compress(row, used), *[""] * (sum(used[len(row) :]))] for row in filled]
    if has_header is None:
        has_header = width > 1 and _is_header(table[0])
    if not has_header or len(table) < 2 or sum(used) < 2:
        return "\n".join(" | ".join(filter(None, row)) for row in table)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([lines[0], "| " + " | ".join(["---"] * sum(used)) + " |", *lines[1:]])


def _is_header(cells: Sequence[str]) -> bool:
    names = cells[1:] if not cells[0] else cells
    return bool(names) and all(names) and len(set(names)) == len(names) and not any(map(_is_number, names))


def _is_number(cell: str) -> bool:
    return any(char.isdigit() for char in cell) and all(char in "0123456789.,+-%/: eE$€£" for char in cell)
