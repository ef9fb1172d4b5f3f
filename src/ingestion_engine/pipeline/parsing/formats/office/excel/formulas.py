"""Formulas of Excel as their cells show them, for cells without a computed value."""

from __future__ import annotations

import re

_FUTURE = re.compile(r"\b_xl(?:fn|ws|pm|udf|eta)\.", re.IGNORECASE)
"""Marks that files put before functions newer than the format; Excel shows none of them."""

_REFERENCE = re.compile(
    r"""
    "[^"]*+"?+                                  # text
    | '[^']*+'?+                                # a quoted sheet
    | \[[^\]]*+\]?+                             # a column of a table, another workbook
    | (?<![A-Za-z0-9_.$\\])
      (?P<column_fixed>\$?)(?P<column>[A-Za-z]{1,3})(?P<row_fixed>\$?)(?P<row>[1-9][0-9]{0,6})
      (?![A-Za-z0-9_.(!])
    | (?<![A-Za-z0-9_.$\\])
      (?P<from_fixed>\$?)(?P<from_row>[1-9][0-9]{0,6}):(?P<to_fixed>\$?)(?P<to_row>[1-9][0-9]{0,6})
      (?![A-Za-z0-9_.(!])
    | (?<![A-Za-z0-9_.$\\])
      (?P<first_fixed>\$?)(?P<first>[A-Za-z]{1,3}):(?P<last_fixed>\$?)(?P<last>[A-Za-z]{1,3})
      (?![A-Za-z0-9_.(!])
    """,
    re.VERBOSE,
)
_LAST_ROW = 1_048_576
_LAST_COLUMN = 16_384


def show_formula(formula: str) -> str:
    """Return a stored formula as its cell shows it: ``=SUM(A1:A3)``. Pure."""
    return "=" + _FUTURE.sub("", formula.strip().removeprefix("="))


def shift_formula(formula: str, *, rows: int, columns: int) -> str:
    """Return a formula that several cells share, for the cell so many rows below and columns right of its own. Pure."""

    def shift(found: re.Match[str]) -> str:
        if found["row"]:
            column = _shift_column(found["column"], 0 if found["column_fixed"] else columns)
            row = _shift_row(found["row"], 0 if found["row_fixed"] else rows)
            return f"{found['column_fixed']}{column}{found['row_fixed']}{row}" if column and row else "#REF!"
        if found["from_row"]:
            first = _shift_row(found["from_row"], 0 if found["from_fixed"] else rows)
            last = _shift_row(found["to_row"], 0 if found["to_fixed"] else rows)
            return f"{found['from_fixed']}{first}:{found['to_fixed']}{last}" if first and last else "#REF!"
        if found["first"]:
            first = _shift_column(found["first"], 0 if found["first_fixed"] else columns)
            last = _shift_column(found["last"], 0 if found["last_fixed"] else columns)
            return f"{found['first_fixed']}{first}:{found['last_fixed']}{last}" if first and last else "#REF!"
        return found.group()

    return _REFERENCE.sub(shift, formula)


def read_column(letters: str) -> int:
    """Return the number of a column by its letters: 1 for "A"; 0 for no letters. Pure."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    return number


def write_column(number: int) -> str:
    """Return the letters of a column, by its number from 1. Pure."""
    letters = ""
    while number > 0:
        number, place = divmod(number - 1, 26)
        letters = chr(65 + place) + letters
    return letters


def _shift_column(letters: str, by: int) -> str:
    number = read_column(letters) + by
    return write_column(number) if 0 < number <= _LAST_COLUMN else ""


def _shift_row(digits: str, by: int) -> str:
    number = int(digits) + by
    return str(number) if 0 < number <= _LAST_ROW else ""
