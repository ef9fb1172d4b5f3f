"""The header of the table that a place of a Markdown text is in, so that chunks of a long table keep it as context."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DELIMITER = re.compile(r"\n {0,3}(?:\|[ \t]*+)?:?-++:?[ \t]*+(?:\|[ \t]*+:?-++:?[ \t]*+)*+(?:\|[ \t]*+)?(?:\n|\Z)")
"""The line below the header of a table (GitHub Flavored Markdown 4.10), with the line ends around it."""
_END = re.compile(r"\n[^\n|]*+(?:\n|\Z)")
"""The end of a row and a line without a bar, which is no row."""


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of a table within a section, behind its header."""

    start: int
    end: int
    header: str
    """The header's line, without white space at its ends."""


class TableHeaders:
    """Finds the tables of a text that is read section by section."""

    def __init__(self, most_chars: int, header: str = "") -> None:
        """Begin a text, or one that begins within a table.

        Args:
            most_chars: Length of the longest header that is kept: it is embedded with every chunk of the rows.
            header: Header of the table that the text begins with; empty for none.
        """
        self._most_chars = most_chars
        self._header: str | None = header or None
        """Header of the table that is open at the end of the last section."""
        self._last_line = ""
        """Last line of the last section: the header of a table may end there."""

    def read(self, section: str) -> list[TableRows]:
        """Return the rows of every table in the next section, in order. Cost: about 1 s per GB without a bar."""
        last_line, self._last_line = self._last_line, ""
        if "|" not in section and not last_line:
            self._header = None
            return []
        found: list[TableRows] = []
        at = 0
        if self._header is not None:
            at = self._take(found, section, start=0, header=self._header)
        # A delimiter at the beginning belongs to a header at the end of the section before.
        text, shift = last_line + section, len(last_line)
        for delimiter in _DELIMITER.finditer(text):
            line = text[text.rfind("\n", 0, delimiter.start()) + 1 : delimiter.start()].strip()
            if delimiter.start() < at + shift or not _are_alike(line, delimiter[0]):
                continue
            # The delimiter itself belongs to the rows: a chunk may begin with it.
            start = max(delimiter.start() + 1 - shift, 0)
            at = self._take(found, section, start=start, header=line)
        end = section[section.rfind("\n", 0, len(section) - 1) + 1 :]
        if self._header is None and "|" in end and end.endswith("\n"):
            self._last_line = end
        return [rows for rows in found if rows.header and len(rows.header) <= self._most_chars]

    def _take(self, found: list[TableRows], section: str, *, start: int, header: str) -> int:
        """Add the rows that begin at a place; return where they end. The table stays open at the section's end."""
        end = start
        if "|" in section[start : section.find("\n", start) + 1 or None]:
            match = _END.search(section, start)
            end = len(section) if match is None else match.start() + 1
        found.append(TableRows(start, end, header))
        self._header = header if end == len(section) else None
        return end


def find_header(tables: list[TableRows], at: int) -> str:
    """Return the header of the table whose rows a place is in; empty for any other place. Pure."""
    return next((rows.header for rows in tables if rows.start <= at < rows.end), "")


def _are_alike(header: str, delimiter: str) -> bool:
    """True when two lines have as many cells, at least one of them with a bar."""
    return ("|" in header or "|" in delimiter) and _count_cells(header) == _count_cells(delimiter.strip())


def _count_cells(line: str) -> int:
    bars = line.count("|") - line.count("\\|")
    return bars + 1 - line.startswith("|") - (line.endswith("|") and not line.endswith("\\|") and len(line) > 1)
