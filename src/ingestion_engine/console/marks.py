"""Marks the words in which two texts differ. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

from ingestion_engine.domain.spec import StoreName
from ingestion_engine.models.collections import ChunkView

WORDS_MAX: Final = 2_000
"""Words and spaces of a text up to which they are compared, some 6 kB; longer texts are marked as a whole. The
comparison takes 20 ms at most: a word that is more than a hundredth of a text only continues a match. Else two words in
turn, which anybody may put into a bucket, would take half a second for each chunk of a page."""

_PIECES: Final = re.compile(r"\s+|\w+|[^\w\s]")


def mark_text(chunk: ChunkView, name: StoreName) -> list[tuple[str, bool]]:
    """Return the text of a chunk in one store in pieces, each with whether another store's text lacks it."""
    own = _read_text(chunk, name)
    others = [_read_text(chunk, other) for other, copy in chunk.stores.items() if other != name and copy.present]
    return mark_words(own, others[0]) if others else [(own, False)]


def mark_words(own: str, other: str) -> list[tuple[str, bool]]:
    """Return a text in pieces, each with whether the other text lacks it there; joined they are the text."""
    left, right = _PIECES.findall(own), _PIECES.findall(other)
    if max(len(left), len(right)) > WORDS_MAX:
        return [(own, own != other)]
    return list(_mark(left, right))


def _mark(own: list[str], other: list[str]) -> Iterator[tuple[str, bool]]:
    matcher = difflib.SequenceMatcher(None, own, other, autojunk=True)
    for kind, first, end, _, _ in matcher.get_opcodes():
        if first < end:
            yield "".join(own[first:end]), kind != "equal"


def _read_text(chunk: ChunkView, name: StoreName) -> str:
    values: dict[str, Any] = chunk.stores[name].values or {}
    text = values.get("text", "" if "text" in chunk.differences else chunk.text)
    return text if isinstance(text, str) else str(text or "")
