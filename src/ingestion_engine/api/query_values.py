"""Types of query parameters: texts that are exactly a boolean or a number, as JSON writes them.

``limit=1_0`` or ``force=on`` mean something to Python, and something else, or nothing, to everybody else.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

_BOOLEANS: Final = {"true": True, "false": False}
_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]{0,15})\Z")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,3})?\Z")

CURSOR_MAX: Final = 4_096
"""Maximum characters of a cursor: a key of 1,024 bytes takes about 1,400."""


def _read_boolean(value: Any) -> Any:
    if not isinstance(value, str):
        return value  # a default
    try:
        return _BOOLEANS[value]
    except KeyError:
        raise ValueError("must be true or false") from None


def _read_whole(value: Any) -> Any:
    if isinstance(value, str) and _WHOLE.match(value) is None:
        raise ValueError("must be an integer, such as 5")
    return value


def _read_number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER.match(value) is None:
        raise ValueError("must be a number, such as 0.5")
    return value


QueryFlag = Annotated[bool, BeforeValidator(_read_boolean)]
"""``true`` or ``false``."""

QueryWhole = Annotated[int, BeforeValidator(_read_whole)]
"""An integer in decimal digits."""

PageSize = Annotated[int, Field(ge=1, le=1000), BeforeValidator(_read_whole)]
"""Maximum number of items, where a list without one is whole."""

Attempt = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_read_whole)]
"""Number of an attempt of a job."""

ShortTime = Annotated[float, Field(gt=0, le=30), BeforeValidator(_read_number)]
"""Seconds that somebody waits for a response, as JSON writes them."""

# The patterns are declared, not enforced: who reads the text refuses it with a better sentence.
Cursor = Annotated[str, Field(max_length=CURSOR_MAX, json_schema_extra={"pattern": r"^[A-Za-z0-9_\-]*$"})]
"""``next_cursor`` of a page: opaque, URL-safe; empty means the first page."""

Position = Annotated[str, Field(max_length=64, json_schema_extra={"pattern": r"^[0-9a-fT:.Z@\-]*$"})]
"""``Log-Position`` of a response; empty means the beginning."""
