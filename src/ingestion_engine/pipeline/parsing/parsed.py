"""What every reader of a format gives back, and the cleaning that makes it a document's text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ingestion_engine.domain.records import PageSpan, TextFormat

PAGE_BREAK = "\n\n"
"""Stands between the texts of two pages."""

TITLE_CHARS = 300
"""Longer titles are shortened; they are shown beside hits and not embedded."""

_UNWANTED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""Control characters that no store or model makes use of (NUL breaks some), surrogates without a partner,
non-characters."""
_CONTROL = bytes(code for code in range(128) if _UNWANTED.match(chr(code)))
"""Those of them that are ASCII."""

_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A file's text as a reader found it, not yet cleaned."""

    text: str = ""
    text_format: TextFormat = TextFormat.PLAIN
    title: str | None = None
    pages: tuple[str, ...] | None = None
    """One text per page, instead of ``text``, when the format has pages."""


def clean_text(text: str) -> str:
    r"""Return the text with ``\n`` as its only line end, without byte order mark and control characters.

    Pure and idempotent; the result is encodable as UTF-8. Lone surrogates become U+FFFD. Cost: no copy where nothing
    is to be done.
    """
    if text.startswith("\ufeff"):
        text = text.lstrip("\ufeff")
    return _clean_inside(text)


def clean_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """Yield what ``clean_text`` makes of the joined pieces, also where a line end falls on a border. Pure."""
    has_begun = False
    held = ""
    for piece in pieces:
        text = held + piece
        if not has_begun:
            text = text.lstrip("\ufeff")
            has_begun = bool(text)
        held = "\r" if text.endswith("\r") else ""
        yield _clean_inside(text.removesuffix(held))
    yield _clean_inside(held)


def _clean_inside(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\v" in text:
        text = text.replace("\v", "\n")
    if text.isascii():
        kept = text.encode().translate(None, _CONTROL)  # a twentieth of the expression's time
        return text if len(kept) == len(text) else kept.decode()
    return _UNWANTED.sub(lambda found: "\ufffd" if "\ud800" <= found.group() <= "\udfff" else "", text)


def clean_title(title: str | None) -> str | None:
    """Return the title on one line, at most ``TITLE_CHARS`` long; None when nothing is left."""
    if title is None:
        return None
    words = _SPACES.sub(" ", clean_text(title)).strip()
    return words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1].rstrip() + "…"


def join_pages(pages: tuple[str, ...]) -> tuple[str, tuple[PageSpan, ...]]:
    """Join cleaned page texts; blank pages leave neither text nor span, but keep their number."""
    parts: list[str] = []
    spans: list[PageSpan] = []
    at = 0
    for number, page in enumerate(pages, 1):
        text = clean_text(page).strip()
        if not text:
            continue
        if parts:
            parts.append(PAGE_BREAK)
            at += len(PAGE_BREAK)
        parts.append(text)
        spans.append(PageSpan(number, at, at + len(text)))
        at += len(text)
    return "".join(parts), tuple(spans)
