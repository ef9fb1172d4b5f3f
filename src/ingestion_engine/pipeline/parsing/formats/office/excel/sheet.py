"""The cells of a sheet, row by row, without the whole sheet in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.parsers import expat

from ingestion_engine.pipeline.parsing.formats.office.excel.formulas import read_column, shift_formula, show_formula
from ingestion_engine.pipeline.parsing.formats.office.excel.numbers import NumberFormat, show_general, show_iso_date
from ingestion_engine.pipeline.parsing.formats.tables import Row

_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")
_DIGITS = "0123456789"
_BUFFER_BYTES = 64 * 1024
"""Text that expat joins before it hands it over: more than almost every cell has."""

_HEADERS = frozenset({"oddHeader", "oddFooter", "evenHeader", "evenFooter", "firstHeader", "firstFooter"})
_HEADER_TOKEN = re.compile(
    r'&(?:"[^"]*+"?|K[0-9A-F]{6}|K[0-9]{2}[+-][0-9]{3}|[0-9]{1,3}|.)|[^&]++', re.IGNORECASE | re.DOTALL
)
_HEADER_MARKS = {"&&": "&", "&l": " | ", "&c": " | ", "&r": " | ", "&p": "\x01", "&n": "\x02"}
"""What stands for codes of headers while their text is made; all others are formats, dates and names of the file."""
_PAGE_NUMBER = re.compile(r"\w{0,40}+\s{0,9}+\x01(?:\s{0,9}+\w{0,40}+\s{0,9}+\x02)?")

_GENERAL = NumberFormat()


class DamagedSheetError(ValueError):
    """A sheet, or the strings of all sheets, cannot be read; the message says what is wrong."""


class UnorderedRowsError(Exception):
    """A row follows one with a higher number."""


@dataclass(frozen=True, slots=True)
class Styles:
    """What the cells of all sheets refer to by number."""

    strings: Sequence[str] = ()
    formats: Sequence[NumberFormat] = ()


def unescape(text: str) -> str:
    """Return a text with the characters that Excel writes as escapes (``_x000D_``). Pure."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text) if "_x" in text else text


def read_strings(pieces: Iterable[bytes]) -> list[str]:
    """Return the strings that cells refer to, each on one line, without the readings of East Asian words.

    Raises:
        DamagedSheetError: the part is not well-formed.
    """
    reader = _Strings()
    for _ in _feed(pieces, reader):
        pass
    return reader.strings


class SheetReader:
    """Reads one sheet.

    Args:
        styles: Strings and number formats of the workbook.
    """

    def __init__(self, styles: Styles) -> None:
        self.notes: list[str] = []
        """Headers and footers of its printed pages as stored, known after the last row."""
        self._styles = styles

    def rows(self, pieces: Iterable[bytes]) -> Iterator[Row]:
        """Yield the filled cells of every row in order, with an empty row in place of blank ones.

        Raises:
            DamagedSheetError: the sheet is not well-formed, or refers to strings that do not exist.
            UnorderedRowsError: read it with ``sorted_rows`` instead.
        """
        last = 0
        for number, cells in self._numbered(pieces):
            if number < last:
                raise UnorderedRowsError
            if number > last + 1:
                yield ()
            last = number
            yield cells

    def sorted_rows(self, pieces: Iterable[bytes]) -> Iterator[Row]:
        """Yield as ``rows`` for a sheet with rows in any order. Cost: memory of the whole sheet."""
        last = 0
        for number, cells in sorted(self._numbered(pieces), key=lambda row: row[0]):
            if number > last + 1:
                yield ()
            last = number
            yield cells

    def _numbered(self, pieces: Iterable[bytes]) -> Iterator[tuple[int, Row]]:
        cells = _Cells(self._styles)
        for _ in _feed(pieces, cells):
            yield from cells.done
            cells.done.clear()
        self.notes = cells.notes


_Start = Callable[[dict[str, str]], None]
_End = Callable[[], None]


class _Part:
    """Handlers of one kind of part, by the local names of its elements."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.is_text = False
        self.starts: dict[str, _Start] = {}
        self.ends: dict[str, _End] = {}

    def begin_text(self, _attributes: dict[str, str]) -> None:
        self.parts.clear()
        self.is_text = True

    def end_text(self) -> str:
        self.is_text = False
        return "".join(self.parts)


class _Strings(_Part):
    def __init__(self) -> None:
        super().__init__()
        self.strings: list[str] = []
        self._runs: list[str] = []
        self._readings = 0
        self.starts = {"t": self.begin_text, "rPh": self._begin_reading}
        self.ends = {"t": self._end_run, "rPh": self._end_reading, "si": self._end_string}

    def _begin_reading(self, _attributes: dict[str, str]) -> None:
        self._readings += 1

    def _end_reading(self) -> None:
        self._readings -= 1

    def _end_run(self) -> None:
        text = self.end_text()
        if not self._readings:
            self._runs.append(text)

    def _end_string(self) -> None:
        self.strings.append(_clean("".join(self._runs)))
        self._runs.clear()


class _Cells(_Part):
    """The state of a sheet between two tags."""

    def __init__(self, styles: Styles) -> None:
        super().__init__()
        self.done: list[tuple[int, Row]] = []
        """Rows that have ended, with their numbers."""
        self.notes: list[str] = []
        self._show = _Values(styles).show
        self._columns: dict[str, int] = {}
        self._shared: dict[str, tuple[str, int, int]] = {}
        self._row: list[tuple[int, str]] = []
        self._number = self._column = self._readings = 0
        self._is_numbered = self._is_sorted = True
        self._cell: dict[str, str] = {}
        self._formula: dict[str, str] | None = None
        self._formula_text = self._value = ""
        self._inline: list[str] = []
        self.starts = {
            "row": self._begin_row,
            "c": self._begin_cell,
            "v": self.begin_text,
            "f": self._begin_formula,
            "t": self.begin_text,
            "rPh": self._begin_reading,
            **dict.fromkeys(_HEADERS, self.begin_text),
        }
        self.ends = {
            "row": self._end_row,
            "c": self._end_cell,
            "v": self._end_value,
            "f": self._end_formula,
            "t": self._end_run,
            "rPh": self._end_reading,
            **dict.fromkeys(_HEADERS, self._end_header),
        }

    def _begin_row(self, attributes: dict[str, str]) -> None:
        stored = attributes.get("r", "")
        self._is_numbered = stored.isdecimal()
        self._number = int(stored) if self._is_numbered else self._number + 1
        self._column = 0
        self._is_sorted = True

    def _end_row(self) -> None:
        if not self._is_sorted:
            self._row.sort(key=lambda item: item[0])
        self.done.append((self._number, self._row))
        self._row = []

    def _begin_cell(self, attributes: dict[str, str]) -> None:
        self._cell = attributes
        self._value = ""
        if self._formula is not None:
            self._formula = None
            self._formula_text = ""
        if self._inline:
            self._inline.clear()

    def _end_cell(self) -> None:
        place = self._cell.get("r", "")
        letters = place.rstrip(_DIGITS)
        column = self._columns.get(letters)
        if column is None:
            column = self._columns[letters] = read_column(letters)
        if not column:
            column = self._column + 1
        if column <= self._column:
            self._is_sorted = False
        self._column = column
        if not self._is_numbered and len(place) > len(letters):
            self._number, self._is_numbered = int(place[len(letters) :]), True
        text = _clean("".join(self._inline)) if self._inline else self._show(self._cell, self._value)
        if self._formula is not None and not text:
            text = self._show_formula(self._formula)
        elif self._formula is not None:
            self._share_formula(self._formula)
        if text:
            self._row.append((column, text))

    def _show_formula(self, attributes: dict[str, str]) -> str:
        """Return the formula of a cell without a value; nothing if its value is an empty text."""
        text = self._share_formula(attributes)
        if self._cell.get("t") == "str":
            return ""
        return " ".join(show_formula(text).split()) if text else ""

    def _share_formula(self, attributes: dict[str, str]) -> str:
        """Return the formula of a cell, for other cells to share or shared by it."""
        group = attributes.get("si")
        if attributes.get("t") != "shared" or group is None:
            return self._formula_text
        if self._formula_text:
            self._shared[group] = (self._formula_text, self._number, self._column)
        elif group in self._shared and not self._value:
            text, row, column = self._shared[group]
            return shift_formula(text, rows=self._number - row, columns=self._column - column)
        return self._formula_text

    def _end_value(self) -> None:
        self.is_text = False
        self._value = "".join(self.parts)

    def _begin_formula(self, attributes: dict[str, str]) -> None:
        self._formula = attributes
        self.begin_text(attributes)

    def _end_formula(self) -> None:
        self._formula_text = self.end_text()

    def _end_run(self) -> None:
        text = self.end_text()
        if not self._readings:
            self._inline.append(text)

    def _begin_reading(self, _attributes: dict[str, str]) -> None:
        self._readings += 1

    def _end_reading(self) -> None:
        self._readings -= 1

    def _end_header(self) -> None:
        self.notes.append(self.end_text())


class _Values:
    """Shows the stored values of cells."""

    def __init__(self, styles: Styles) -> None:
        self._strings = styles.strings
        self._formats = {
            str(place): number_format for place, number_format in enumerate(styles.formats) if number_format != _GENERAL
        }

    def show(self, cell: dict[str, str], value: str) -> str:
        """Return a cell's value as a person sees it. Raises DamagedSheetError."""
        if not value:
            return ""
        kind = cell.get("t")
        if kind == "s":
            if not value.strip().isdecimal() or int(value) >= len(self._strings):
                raise DamagedSheetError(f"cell {cell.get('r', '')} refers to string {value}, which does not exist")
            return self._strings[int(value)]
        if kind is None or kind == "n":
            number_format = self._formats.get(cell.get("s", "0"))
            return number_format.show(value) if number_format is not None else show_general(value)
        if kind == "b":
            return {"1": "TRUE", "0": "FALSE"}.get(value, value)
        return show_iso_date(value) if kind == "d" else _clean(value)


def _clean(text: str) -> str:
    return " ".join(unescape(text).split())


def show_note(stored: str) -> str:
    """Return the text of a header or footer without its codes, page numbers and the word before them. Pure."""
    tokens = (
        _HEADER_MARKS.get(token.lower(), "") if token.startswith("&") else token
        for token in _HEADER_TOKEN.findall(stored)
    )
    text = _PAGE_NUMBER.sub(" ", "".join(tokens)).replace("\x02", "")
    return " | ".join(filter(None, (" ".join(part.split()) for part in text.split(" | "))))


def _feed(pieces: Iterable[bytes], part: _Part) -> Iterator[None]:
    """Parse a part piece by piece; continue after each."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.buffer_size = _BUFFER_BYTES
    parts = part.parts

    def begin(tag: str, _attributes: dict[str, str]) -> None:
        prefix, separator, _ = tag.rpartition(":")
        starts = {prefix + separator + name: handler for name, handler in part.starts.items()}
        ends = {prefix + separator + name: handler for name, handler in part.ends.items()}

        def start(tag: str, attributes: dict[str, str]) -> None:
            if (handler := starts.get(tag)) is not None:
                handler(attributes)

        def end(tag: str) -> None:
            if (handler := ends.get(tag)) is not None:
                handler()

        def data(characters: str) -> None:
            if part.is_text:
                parts.append(characters)

        parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, data

    parser.StartElementHandler = begin
    try:
        for piece in pieces:
            parser.Parse(piece, False)
            yield
        parser.Parse(b"", True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:  # the latter for encodings without a decoder
        raise DamagedSheetError(str(error)) from error
    yield
