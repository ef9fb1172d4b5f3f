"""The result of every format's reader, and the cleaning that turns it into a document's text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ingestion_engine.domain.records import PageSpan, ReadWarning, TextFormat

PAGE_BREAK = "\n\n"
"""Separator between the texts of two pages."""

TITLE_CHARS = 300
"""Maximum length; longer titles are shortened. Titles are shown with search hits and not embedded."""

_UNWANTED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""Control characters that no store or model uses (NUL breaks some), lone surrogates, and non-characters."""
_CONTROL = bytes(code for code in range(128) if _UNWANTED.match(chr(code)))
"""The unwanted characters that are ASCII."""

_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A file's text as its reader returned it, before cleaning."""

    text: str = ""
    text_format: TextFormat = TextFormat.PLAIN
    title: str | None = None
    pages: tuple[str, ...] | None = None
    """One text per page for formats with pages; ``text`` then follows them, on no page."""
    warnings: tuple[ReadWarning, ...] = ()
    """What was left out; several may have the same code."""

    @property
    def whole_text(self) -> str:
        """The text of all pages, if any, and ``text``."""
        return self.text if self.pages is None else join_pages(self.pages, after=self.text)[0]


ReadInner = Callable[[bytes, str, str], ParsedText]
"""(content, name, declared type) → text of a file inside another one: an attachment, an embedded part. Name and type
may be empty. Raises ObjectError, also "nested_too_deeply"; the outer file then goes on and warns "part_unreadable"."""


def clean_text(text: str) -> str:
    r"""Return the text with ``\n`` as its only line end, without byte order mark and control characters.

    Pure and idempotent; the result can be encoded as UTF-8. Lone surrogates become U+FFFD.

    Cost: no copy of a text that is clean already.
    """
    if text.startswith("\ufeff"):
        text = text.lstrip("\ufeff")
    return _clean_inside(text)


def clean_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """Yield ``clean_text`` of the joined pieces; a line end may fall on a border. Pure."""
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
        kept = text.encode().translate(None, _CONTROL)  # takes a twentieth of the regular expression's time
        return text if len(kept) == len(text) else kept.decode()
    return _UNWANTED.sub(lambda found: "\ufffd" if "\ud800" <= found.group() <= "\udfff" else "", text)


def clean_title(title: str | None) -> str | None:
    """Return the title on one line, at most ``TITLE_CHARS`` long; None for None."""
    if title is None:
        return None
    words = _SPACES.sub(" ", clean_text(title)).strip()
    return words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1].rstrip() + "…"


def join_pages(pages: tuple[str, ...], *, after: str = "") -> tuple[str, tuple[PageSpan, ...]]:
    """Return the joined page texts, cleaned, and the span of each page; blank pages have no span but are counted.

    The text ``after`` them has no span.
    """
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
    if last := clean_text(after).strip():
        parts += [PAGE_BREAK, last] if parts else [last]
    return "".join(parts), tuple(spans)
