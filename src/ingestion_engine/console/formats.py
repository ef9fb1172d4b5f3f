"""How pages write numbers, sizes, durations and moments. All functions are pure."""

from __future__ import annotations

import datetime as dt
import unicodedata
from typing import Final

from markupsafe import Markup

from ingestion_engine.runtime.timestamps import parse_timestamp

NOTHING: Final = "\u2013"
"""What stands where there is no value."""

_UNSEEN: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
"""Categories of Unicode: control and format characters, separators, and spaces that look like another one."""

_BLANK: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0"
    + "".join(
        map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)))
    )
)
"""Characters of other categories that nobody sees: those with the Unicode property Default_Ignorable_Code_Point, such
as fillers and variation selectors, and the empty Braille pattern."""

_BYTE_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_DURATION_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def show_number(value: float | None) -> str:
    """Return a number with separators of thousands; below 100, fractions keep three digits."""
    if value is None:
        return NOTHING
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def show_bytes(value: float | None) -> str:
    """Return a size in decimal units: 1.4 MB."""
    if value is None:
        return NOTHING
    unit = 0
    while abs(value) >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_BYTE_UNITS[unit]}" if unit == 0 or value >= 99.5 else f"{value:.3g} {_BYTE_UNITS[unit]}"


def show_duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: 3 min 20 s."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    rest = round(seconds)
    parts: list[str] = []
    for size, unit in _DURATION_UNITS:
        amount, rest = divmod(rest, size)
        if amount or parts:
            parts.append(f"{amount} {unit}" if amount else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)


def show_latency(milliseconds: float) -> str:
    """Return the time that an answer took, in milliseconds up to ten seconds: 12 ms."""
    if milliseconds < 1:
        return "< 1 ms"
    return f"{milliseconds:,.0f} ms" if milliseconds < 10_000 else show_duration(milliseconds / 1000)


def show_age(seconds: float) -> str:
    """Return how long ago something was, in whole seconds: 4 s ago."""
    whole = int(seconds)
    if whole < 1:
        return "just now"
    return f"{whole} s ago" if whole < 60 else f"{show_duration(whole)} ago"


def show_percent(share: float | None) -> str:
    """Return a share of 0 to 100 as a percentage: 42 %; small shares keep a digit."""
    if share is None:
        return NOTHING
    return f"{share:.1f} %" if 0 < share < 10 or 99 < share < 100 else f"{share:.0f} %"


def show_moment(value: str | dt.datetime | None, form: str = "clock") -> Markup | str:
    """Return a moment as a ``time`` element in UTC, which times.js writes in the reader's zone.

    Args:
        value: The moment, or its ISO 8601 form.
        form: ``clock``: date and time; ``age``: how long ago.
    """
    if value is None or value == "":
        return NOTHING
    moment = parse_timestamp(value) if isinstance(value, str) else value
    utc = moment.astimezone(dt.UTC)
    shown = utc.strftime("%Y-%m-%d %H:%M:%S UTC")
    stamp = utc.isoformat(timespec="milliseconds")
    return Markup('<time datetime="{}" data-form="{}">{}</time>').format(stamp, form, shown)


def show_key(value: str) -> Markup | str:
    """Return a text as it is, for example the key of an object, with a sign at each character that nobody sees.

    Such characters, of which some turn the direction of a text, make one key look like another.
    """
    if value.isprintable() and _BLANK.isdisjoint(value):
        return value
    return Markup().join(map(_show_character, value))


def _show_character(character: str) -> Markup | str:
    is_seen = unicodedata.category(character) not in _UNSEEN and character not in _BLANK
    if character == " " or is_seen:
        return character
    return Markup('<span class="sign" data-code="U+{}">{}</span>').format(f"{ord(character):04X}", character)


def show_words(value: str) -> str:
    """Return an identifier as words: partially succeeded."""
    return value.replace("_", " ")


def show_plural(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: 1 object, 2 objects."""
    return f"{show_number(count)} {singular if count == 1 else plural or singular + 's'}"
