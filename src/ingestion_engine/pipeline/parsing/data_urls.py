"""Data URLs (RFC 2397) are no text: a picture inside a page, a note or a string is left out, its description stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_MOST_AHEAD = 2048
"""Characters behind a place that decide whether a data URL begins, goes on or ends there."""

_LEAST_CHARS = 64
"""A text about data URLs shows shorter ones, and they are kept; the smallest picture has 47 bytes."""

_START = re.compile(
    r"data:[A-Za-z0-9][A-Za-z0-9.+-]{0,63}/[A-Za-z0-9][A-Za-z0-9.+-]{0,126}(?:;[A-Za-z0-9_.=+-]{1,64}){0,8}"
    r"(?:(;base64),(?=(?:\n[ \t]{0,64})?[A-Za-z0-9+/=%_\\-]{64})|,(?=[A-Za-z0-9%._~!*:@&$+,;=/?#-]{64}))"
)
_BASE64 = re.compile(r"""(?:[A-Za-z0-9+/=%_\\-]|\n[ \t]{0,64}(?=[A-Za-z0-9+/]{40}|[A-Za-z0-9+/]{1,40}={0,2}["')]))*+""")
"""Also on several lines, as in an attribute of a page; the last, short one ends at a quote or bracket."""
_ESCAPED = re.compile(r"[A-Za-z0-9%._~!*:@&$+,;=/?#-]*+")


def drop_data_urls(text: str) -> str:
    """Return a text without the data URLs in it; whatever is around them stays. Pure.

    ``![a cat](data:image/png;base64,…)`` becomes ``![a cat]()``. Cost: linear; nothing for a text without ``data:``.
    """
    return text if "data:" not in text else "".join(drop_from_pieces([text]))


def drop_from_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """Yield ``drop_data_urls`` of the joined pieces; a data URL may be longer than any piece. Pure."""
    text = ""
    inside: re.Pattern[str] | None = None
    for piece in pieces:
        text += piece
        kept, at, inside = _drop(text, max(0, len(text) - _MOST_AHEAD), inside)
        text = text[at:]
        yield kept
    yield _drop(text, len(text), inside)[0]


def _drop(text: str, end: int, inside: re.Pattern[str] | None) -> tuple[str, int, re.Pattern[str] | None]:
    """Return what is kept of a text up to about ``end``, the place that was reached, and the data URL it is in."""
    kept: list[str] = []
    at = 0
    while at < end:
        if inside is not None:
            found = inside.match(text, at)
            at = found.end() if found else at
            if at >= end < len(text):
                return "".join(kept), _step_back(text, end), inside
            inside = None
            continue
        start = _START.search(text, at) if "data:" in text else None
        if start is None or start.start() >= end:
            kept.append(text[at:end])
            return "".join(kept), end, None
        kept.append(text[at : start.start()])
        at, inside = start.end(), _BASE64 if start[1] else _ESCAPED
    return "".join(kept), at, inside


def _step_back(text: str, at: int) -> int:
    """Return the last place up to ``at`` that is not inside a line end with its indentation."""
    while at and text[at - 1] in " \t\n":
        at -= 1
    return at
