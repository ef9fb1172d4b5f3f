"""Number formats of Excel: a stored number as a person sees it, without the loss of digits by rounding."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass, field
from functools import lru_cache

_BUILT_IN = {
    **dict.fromkeys((9, 10), "0%"),
    **dict.fromkeys((14, 15, 16, 17, *range(27, 32), 36, *range(50, 55), 57, 58), "yyyy-mm-dd"),
    **dict.fromkeys((18, 19, 20, 21, 32, 33, 34, 35, 55, 56), "h:mm:ss"),
    22: "yyyy-mm-dd h:mm",
    45: "mm:ss",
    46: "[h]:mm:ss",
    47: "mm:ss.0",
}
"""Formats that files refer to by number (ECMA-376 part 1, 18.8.30); 27 to 36 and 50 to 58 are those of East Asia."""

_TOKEN = re.compile(r'"[^"]*+"?+|\\.|\[[^\]]*+\]?+|_.|\*.|General|AM/PM|A/P|.', re.IGNORECASE | re.DOTALL)
_ELAPSED = re.compile(r"\[(?:h+|m+|s+)\]", re.IGNORECASE)
_CONDITION = re.compile(r"\[(<=|>=|<>|<|>|=)\s*+([-+0-9.eE]++)\]")
_CURRENCY = re.compile(r"\[\$([^-\]]*+)")
_PLAIN_INTEGER = re.compile(r"-?+(?:0|[1-9][0-9]*+)")
_SCALED = re.compile(r"[0#?],+(?![0#?,])")
_DIGITS = frozenset("0#?")
_PLAIN = frozenset("/+-$€£¥() ")
"""Characters that a format need not quote."""

_DATE_LETTERS = frozenset("dmyhsebgan")
_FIRST_DAY = dt.date(1899, 12, 30)
_FIRST_DAY_1904 = dt.date(1904, 1, 1)
_DAY_MS = 86_400_000
_FIRST_SERIAL = -693_000
"""In the first years of our era. Excel shows no dates before 1900, other programs do."""
_LAST_SERIAL = 2_958_466
"""The day after 9999-12-31."""

_CONDITIONS = {
    "<": lambda value, limit: value < limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
    ">=": lambda value, limit: value >= limit,
    "=": lambda value, limit: value == limit,
    "<>": lambda value, limit: value != limit,
}


@dataclass(frozen=True, slots=True)
class _Section:
    """One of up to four parts of a format: for positive and negative numbers, zero and text."""

    condition: tuple[str, float] | None = None
    is_percent: bool = False
    has_date: bool = False
    has_time: bool = False
    is_elapsed: bool = False
    has_fraction: bool = False
    """Times show parts of a second."""
    prefix: str = ""
    """Unit or symbol before the number, for example a currency."""
    suffix: str = ""
    mask: tuple[str, ...] = ()
    """Digit places and what is between them, for numbers such as postal codes: ``000-00``; empty for other formats."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A number format, and the first day that dates count from."""

    sections: tuple[_Section, ...] = field(default=(_Section(),))
    first_day: dt.date = _FIRST_DAY

    def show(self, stored: str) -> str:
        """Return a stored number as its cell shows it, with all digits that Excel keeps (15). Pure.

        Percentages: ``47.5 %``. Dates: ``2024-05-17``, times ``13:45:00``, elapsed times ``26:30:00``. Units and
        currencies of the format stay; groups of thousands and rounding do not.
        """
        try:
            value = float(stored)
        except ValueError:
            return stored
        if not math.isfinite(value):
            return stored
        section = self._choose(value)
        if section.has_date or section.has_time:
            shown = _show_date(value, section, self.first_day)
            if shown is not None:
                return shown
        if section.is_percent:
            return f"{_show_number(value * 100)} %"
        if section.mask and value.is_integer() and value >= 0:
            return section.prefix + _fill(section.mask, str(int(value))) + section.suffix
        number = stored if _PLAIN_INTEGER.fullmatch(stored) else _show_number(value)
        sign = "-" if section.prefix and number.startswith("-") else ""
        return f"{sign}{section.prefix}{number.removeprefix(sign)}{section.suffix}"

    def _choose(self, value: float) -> _Section:
        sections = self.sections
        if any(section.condition for section in sections):
            for section in sections:
                if section.condition is None or _CONDITIONS[section.condition[0]](value, section.condition[1]):
                    return section
            return sections[-1]
        if value < 0 and len(sections) > 1:
            return sections[1]
        return sections[2] if value == 0 and len(sections) > 2 else sections[0]


def show_general(stored: str) -> str:
    """Return a stored number in the format that cells have by default. Pure."""
    if stored.isascii() and stored.isdecimal():
        return stored
    try:
        value = float(stored)
    except ValueError:
        return stored
    if not math.isfinite(value) or _PLAIN_INTEGER.fullmatch(stored):
        return stored
    return _show_number(value)


def make_format(number: int, code: str | None, *, since_1904: bool) -> NumberFormat:
    """Return the format of a number that the file refers to, with its code if the file defines it. Pure."""
    return _make_format(code if code is not None else _BUILT_IN.get(number, ""), since_1904)


@lru_cache(maxsize=1024)
def _make_format(code: str, since_1904: bool) -> NumberFormat:
    sections: list[list[str]] = [[]]
    for part in _TOKEN.findall(code):
        if part == ";":
            sections.append([])
        else:
            sections[-1].append(part)
    # Zero may be shown as a dash or not at all; its number has the format of others then.
    shown = [section if place == 0 or _has_digits(section) else sections[0] for place, section in enumerate(sections)]
    made = tuple(map(_make_section, shown[:3]))
    return NumberFormat(made, _FIRST_DAY_1904 if since_1904 else _FIRST_DAY)


def _has_digits(tokens: list[str]) -> bool:
    return any(part in ("0", "#") or part.isalpha() for part in tokens)


def _make_section(tokens: list[str]) -> _Section:
    conditions = [found for token in tokens if (found := _CONDITION.fullmatch(token))]
    condition = (conditions[0][1], _to_float(conditions[0][2])) if conditions else None
    letters = {token.lower() for token in tokens if len(token) == 1 and token.isalpha()}
    elapsed = any(_ELAPSED.fullmatch(token) for token in tokens)
    is_number = any(token in _DIGITS for token in tokens) and not letters & set("ymdhs")
    has_clock = bool(letters & {"h", "s"}) or elapsed or any(token.upper() in ("AM/PM", "A/P") for token in tokens)
    if not is_number and (letters or elapsed) and letters <= _DATE_LETTERS and (letters & set("dmyhse") or elapsed):
        has_date = not elapsed and bool(letters & {"d", "y", "e"} or ("m" in letters and not has_clock))
        fraction = "s" in letters and "0" in tokens
        return _Section(condition, has_date=has_date, has_time=has_clock, is_elapsed=elapsed, has_fraction=fraction)
    if "%" in tokens:
        return _Section(condition, is_percent=True)
    is_scaled = _SCALED.search("".join(token for token in tokens if len(token) == 1)) is not None
    if (condition is not None and not _is_mask(tokens)) or is_scaled or "/" in tokens:
        return _Section(condition)
    return _make_number(tokens, condition)


def _make_number(tokens: list[str], condition: tuple[str, float] | None) -> _Section:
    """Return the section of a number with a unit, or of one whose digits have places."""
    places = [place for place, token in enumerate(tokens) if token in _DIGITS]
    if not places:
        general = [place for place, token in enumerate(tokens) if token.lower() == "general"]
        if not general:
            return _Section(condition)
        places = general
    first, last = places[0], places[-1]
    prefix = "".join(map(_literal, tokens[:first]))
    suffix = "".join(map(_literal, tokens[last + 1 :]))
    if _is_mask(tokens):
        between = tuple(token if token in _DIGITS else _literal(token) for token in tokens[first : last + 1])
        return _Section(condition, prefix=prefix.lstrip(), suffix=suffix.rstrip(), mask=between)
    prefix, suffix = prefix.lstrip("-+( "), suffix.rstrip("-+) ")
    return _Section(condition, prefix=prefix, suffix=suffix)


def _is_mask(tokens: list[str]) -> bool:
    """Return whether a section gives the digits of a number places, as ``00000`` and ``000-00`` do."""
    places = [place for place, token in enumerate(tokens) if token in _DIGITS]
    if not places or not set(".,%Ee/").isdisjoint(tokens):
        return False
    inside = (token for token in tokens[places[0] : places[-1]] if token not in _DIGITS)
    return tokens.count("0") > 1 or any(_literal(token).strip() for token in inside)


def _literal(part: str) -> str:
    """Return the text that a part of a format writes."""
    if part.startswith('"'):
        return part[1:].removesuffix('"')
    if part.startswith("\\"):
        return part[1:]
    if found := _CURRENCY.match(part):
        return found[1]
    return part if part in _PLAIN else ""


def _fill(mask: tuple[str, ...], digits: str) -> str:
    """Return the digits in the places of a mask, from the right; those left over stand before all places."""
    left = list(digits.lstrip("0"))
    out: list[str] = []
    for place in reversed(mask):
        if place not in _DIGITS:
            if left or "0" in mask[: len(mask) - len(out)]:
                out.append(place)
        elif left:
            out.append(left.pop())
        elif place == "0":
            out.append("0")
    return "".join(left) + "".join(reversed(out)) or "0"


def _show_number(value: float) -> str:
    """Return a number with up to 15 digits, as Excel keeps them; very large and small ones with an exponent."""
    if value == 0:
        return "0"
    text = f"{value:.15g}"
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    return _unroll(text) if -10 <= int(exponent) <= 20 else f"{mantissa}E{int(exponent):+d}"


def _unroll(text: str) -> str:
    """Return a number with an exponent as one without."""
    from decimal import Decimal

    return f"{Decimal(text):f}"


def _show_date(value: float, section: _Section, first_day: dt.date) -> str | None:
    """Return a date, time of day or elapsed time; None if the number is no such thing."""
    if not _FIRST_SERIAL < value < _LAST_SERIAL:
        return None
    total = round(value * _DAY_MS) if section.has_fraction else round(value * _DAY_MS / 1000) * 1000
    days, left = divmod(total, _DAY_MS)
    if section.is_elapsed:
        return "-" * (total < 0) + _show_time(abs(total))
    if not section.has_date and days == 0:
        return _show_time(left)
    if days + (first_day - _FIRST_DAY).days >= _LAST_SERIAL:
        return None
    if first_day == _FIRST_DAY:
        if days == 0:
            return _show_time(left)
        # Excel counts 1900 as a leap year: day 60 is one that never was.
        date = "1900-02-29" if days == 60 else (first_day + dt.timedelta(days + (0 < days < 60))).isoformat()
    else:
        date = (first_day + dt.timedelta(days)).isoformat()
    return date if left == 0 else f"{date} {_show_time(left)}"


def _show_time(total_ms: int) -> str:
    seconds, milliseconds = divmod(total_ms, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    fraction = f".{milliseconds:03}".rstrip("0") if milliseconds else ""
    return f"{hour:02}:{minute:02}:{second:02}{fraction}"


def show_iso_date(stored: str) -> str:
    """Return a date that is stored as ISO 8601, without the time of midnight. Pure."""
    date, separator, time = stored.strip().partition("T")
    time = time.removesuffix("Z")
    return date if not separator or time.rstrip("0.:") == "" else f"{date} {time}" if date else time


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
