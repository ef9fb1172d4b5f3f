"""CSV and other tables to text: one line per row with the column names, so that every passage is self-contained."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.pieces import Growth, join_lines, split_lines, take_head

_DELIMITERS = "\t;|,"
"""In the order of preference between equals: commas also occur in texts and numbers."""

_PROBE_CHARS = 64 * 1024
_PROBE_ROWS = 100

Row = Sequence[tuple[int, str]]
"""The filled cells of a row, in order: (number of the column, text without line breaks and without blanks around)."""


def read_csv(text: str) -> ParsedText:
    """Return every row of a delimited table as one line; the delimiter is detected.

    Raises:
        ObjectError: ``decompressed_too_large`` when very long column names make the text out of proportion.

    Cost: about 1 s per 20 MB.
    """
    return ParsedText("".join(render_csv([text])))


def render_csv(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of ``read_csv`` for a table in pieces. Cost: memory of a few pieces and a few rows."""
    csv.field_size_limit(2**31 - 1)  # a cell may be a whole document; the largest value that every platform accepts
    growth = Growth()
    head, pieces = take_head(growth.count(pieces), _PROBE_CHARS)
    declared = _SEPARATOR.match(head)
    delimiter = declared[1] if declared is not None else _find_delimiter(head)
    if delimiter is None:
        return pieces
    lines = split_lines(pieces)
    rows = _read_rows(itertools.islice(lines, declared is not None, None), delimiter)
    return growth.limit(join_lines(render_cells(rows)))


_SEPARATOR = re.compile(r'"?sep=([^\r\n"])"?[,;\t| ]*+(?:\n|$)', re.IGNORECASE)
"""First line with which Excel and its kin tell the delimiter; it is not part of the table."""

_MOST_UNCLOSED = 10
"""Quotes that nothing closes after which lines are read again, each with its own rows."""


def _read_rows(lines: Iterator[str], delimiter: str) -> Iterator[Row]:
    """Yield the rows of a table; a line before the table without any delimiter is followed by an empty row."""
    source = _Lines(lines)
    is_begun = False
    for attempt in range(_MOST_UNCLOSED + 1):
        for cells in csv.reader(source, delimiter=delimiter):
            if len(source.taken) > 1 and source.is_open() and attempt < _MOST_UNCLOSED:
                break
            source.taken.clear()
            yield make_row(cells)
            is_begun = is_begun or len(cells) > 1
            if not is_begun:
                yield ()
        else:
            return
        first, *rest = source.taken
        source = _Lines(iter(rest))
        yield make_row(next(csv.reader([first], delimiter=delimiter, quoting=csv.QUOTE_NONE)))


class _Lines:
    """Lines for a CSV reader, and those that it has taken for the row in hand."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.taken: list[str] = []
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        while (line := next(self._lines, None)) is not None:
            self.taken.append(line)
            yield line

    def is_open(self) -> bool:
        """Return whether the row ended only because the file did: nothing closes the last quote."""
        if "".join(self.taken).count('"') % 2 == 0:
            return False
        following = next(self._lines, None)
        if following is not None:
            self._lines = itertools.chain([following], self._lines)
        return following is None


def make_row(cells: Iterable[str]) -> Row:
    """Return the filled cells of a row. Pure."""
    return [(column, text) for column, cell in enumerate(cells) if (text := " ".join(cell.split()))]


def _find_delimiter(head: str) -> str | None:
    """Return the delimiter with the most rows of one width above one; None when no delimiter gives such rows."""
    best, best_score = None, 0.0
    for delimiter in _DELIMITERS:
        if delimiter not in head:
            continue
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
        rows = [row for row in itertools.islice(reader, _PROBE_ROWS) if row]
        if not rows:
            continue
        widths = [len(row) for row in rows]
        common = max(set(widths), key=lambda width: (widths.count(width), width))
        if common < 2:
            continue
        score = widths.count(common) / len(widths) * min(common, 10)
        if best is not None and delimiter == "," and _is_decimal_comma(head):
            continue
        if score > best_score:
            best, best_score = delimiter, score
    return best


_COMMA_IN_NUMBER = re.compile(r"(?<=[0-9]),(?=[0-9])")


def _is_decimal_comma(head: str) -> bool:
    """Return whether most commas are inside numbers, as in ``1,5``."""
    return 2 * len(_COMMA_IN_NUMBER.findall(head)) > head.count(",")


def render_rows(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of ``render_cells`` for rows of cells, empty ones included."""
    return render_cells(map(make_row, rows))


_HEAD_ROWS = 20
_HEAD_CHARS = 64 * 1024
"""Rows after a blank row, and their characters, that are searched for column names (a guess)."""


def render_cells(rows: Iterable[Row]) -> Iterator[str]:
    """Yield one line per row that is not blank: ``name: Ada; city: London``.

    The column names are the first row whose cells can be names: different words, years or dates. Short rows before it
    are titles. After a blank row, other names replace them if the cells below are of another type. Without names, cells
    are joined by `` | ``. Names without any cell below follow the rows.

    Cost: memory of a few rows.
    """
    table = _Table()
    block: list[Row] = []
    chars = 0
    is_inside = False
    for cells in rows:
        if is_inside and cells:
            yield table.render(cells)
        elif cells:
            block.append(cells)
            chars += sum(len(text) for _, text in cells)
            is_inside = len(block) >= _HEAD_ROWS or chars >= _HEAD_CHARS
        else:
            is_inside = False
        if block and (is_inside or not cells):
            yield from table.begin(block)
            block, chars = [], 0
    yield from table.begin(block)
    yield from table.end()


class _Table:
    """The column names that are in force."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._unused: set[int] = set()

    def begin(self, rows: Sequence[Row]) -> Iterator[str]:
        """Yield the lines of the first rows after a blank one."""
        at = _find_names(rows, is_first=not self._names)
        if at is not None:
            yield from self.end()
            yield from (_join(cells) for cells in rows[:at])
            self._names = dict(rows[at])
            self._unused = set(self._names)
            rows = rows[at + 1 :]
        yield from map(self.render, rows)

    def render(self, cells: Row) -> str:
        """Return the line of a row."""
        if not self._names:
            return _join(cells)
        if self._unused:
            self._unused.difference_update([column for column, _ in cells])
        names = self._names
        return "; ".join([f"{names[column]}: {text}" if column in names else text for column, text in cells])

    def end(self) -> Iterator[str]:
        """Yield the line of the names that no row had a cell for, if any."""
        if self._unused:
            yield _join([(column, self._names[column]) for column in sorted(self._unused)])
            self._unused = set()


def _join(cells: Row) -> str:
    return " | ".join([text for _, text in cells])


class _Type(Enum):
    TEXT = 1
    NUMBER = 2
    YEAR = 3
    DATE = 4
    """Also times and ranges."""
    MISSING = 5
    """A mark for no value."""


_NUMBER = re.compile(r"[-+(]?[$€£¥]? ?[0-9][0-9.,' ]*(?:[eE][-+]?[0-9]+)? ?[%$€£¥]?\)?")
_YEAR = re.compile(r"(?:1[5-9]|20)[0-9][0-9]")
_DATE = re.compile(r"[0-9]{1,4}[-./][0-9]{1,2}[-./][0-9]{1,4}(?:[T ][0-9:.]+)?")
_DATE_CHARS = frozenset("0123456789.,+-%/: eE$€£")
_MISSING = frozenset({"-", "--", "n/a", "na", "#n/a", "nan", "null", "none", "nil", "?"})


def _find_type(text: str) -> _Type:
    if text[0].isdecimal() or text[0] in "-+($€£¥.":
        if _YEAR.fullmatch(text):
            return _Type.YEAR
        if _DATE.fullmatch(text):
            return _Type.DATE
        if len(text) <= _NUMBER_CHARS and _NUMBER.fullmatch(text):
            return _Type.NUMBER
        if any(char.isdigit() for char in text) and all(char in _DATE_CHARS for char in text):
            return _Type.DATE
    folded = text.lower() if len(text) <= _NUMBER_CHARS else ""
    if folded in _MISSING:
        return _Type.MISSING
    return _Type.NUMBER if folded in ("true", "false") else _Type.TEXT


_NUMBER_CHARS = 40
_LEAST_DIFFERENT = 3
"""Rows that show that two columns of the same name are not two cells of the same value (a guess)."""


def _find_names(rows: Sequence[Row], *, is_first: bool) -> int | None:
    """Return the place of the row with the column names, behind rows that are titles; None if no row has any."""
    if not rows:
        return None
    widths = Counter(len(cells) for cells in rows)
    width = max(widths, key=lambda width: (widths[width], width))
    at = next((place for place, cells in enumerate(rows) if len(cells) > width / 2), 0) if width > 1 else 0
    if any(len(cells) > 2 for cells in rows[:at]):
        at = 0
    names, body = rows[at], rows[at + 1 :]
    if len(names) < 2 or not body:
        return None
    types = {column: _find_type(text) for column, text in names}
    if _Type.NUMBER in types.values() or _Type.MISSING in types.values():
        return None
    below: dict[int, list[_Type]] = {}
    for cells in body:
        for column, text in cells:
            below.setdefault(column, []).append(_find_type(text))
    if not _may_be_names(names, types, below):
        return None
    if not _VALUES.isdisjoint(types.values()) or any(
        types.get(column) is _Type.TEXT and _Type.TEXT not in kinds and not _VALUES.isdisjoint(kinds)
        for column, kinds in below.items()
    ):
        return at
    is_titled = at > 0 and width < 4
    return at if is_first and not is_titled and _is_full(names, body, below) else None


_YEAR_STEPS = ({1}, {-1}, {5}, {-5}, {10}, {-10})
_VALUES = frozenset({_Type.NUMBER, _Type.YEAR, _Type.DATE})


def _may_be_names(names: Row, types: Mapping[int, _Type], below: Mapping[int, Sequence[_Type]]) -> bool:
    """Return whether years and dates among the names are not values like those below them."""
    years = [int(text) for column, text in names if types[column] is _Type.YEAR]
    steps = {second - first for first, second in itertools.pairwise(years)}
    is_sequence = steps in _YEAR_STEPS
    for column, kind in types.items():
        kinds = below.get(column, ())
        if kind is _Type.YEAR and not is_sequence and (not kinds or kind in kinds or _Type.TEXT in kinds):
            return False
        if kind is _Type.DATE and (kind in kinds or _Type.TEXT in kinds):
            return False
    has_words = _Type.TEXT in types.values()
    return has_words or (min(below) < min(types) and len(types) > 1)


def _is_full(names: Row, body: Sequence[Row], below: Mapping[int, Sequence[_Type]]) -> bool:
    """Return whether every column of the body has a name of its own; the first one may be an index without a name."""
    named = {column for column, _ in names}
    nameless = {column for column in below if column not in named and column < names[-1][0]}
    if nameless and not (nameless == {min(below)} and len(below[min(below)]) == len(body)):
        return False
    repeated = {text for text, count in Counter(text for _, text in names).items() if count > 1}
    if not repeated:
        return True
    return len(body) >= _LEAST_DIFFERENT and not any(text in repeated for cells in body for _, text in cells)
