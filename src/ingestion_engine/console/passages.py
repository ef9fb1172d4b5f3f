"""Passages of a search, each once, with what every store returned of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ingestion_engine.console.marks import mark_words
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.models.search import Hit, SearchView

MARKED_MAX: Final = 10
"""Passages of a page whose words are compared, when the stores have different texts: 20 ms each at most, twice."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage as the stores returned it."""

    hits: Mapping[StoreName, tuple[int, Hit]]
    """Rank and hit in every store that returned it."""
    pieces: Mapping[StoreName, Sequence[tuple[str, bool]]]
    """Text of every hit in pieces, each with whether the other store's text lacks it."""
    is_everywhere: bool
    """True when every store that was searched returned it."""

    @property
    def is_same(self) -> bool:
        """True when every store has the same: it is shown once."""
        return self.is_everywhere and not self.differs

    @property
    def first(self) -> StoreName:
        """The store that is shown where one is enough."""
        return next(iter(self.hits))

    @property
    def differs(self) -> bool:
        """True when a store should have the same and has not."""
        return any(hit.differences for _, hit in self.hits.values())

    @property
    def keeps_rank(self) -> bool:
        """True when every store that returned it ranks it the same."""
        return len({rank for rank, _ in self.hits.values()}) == 1


def align(found: SearchView | None) -> list[Passage]:
    """Return every passage once, best ranks first. Pure."""
    rows: dict[str, dict[StoreName, tuple[int, Hit]]] = {}
    results = {} if found is None else found.results
    for name, hits in results.items():
        for rank, hit in enumerate(hits, start=1):
            rows.setdefault(hit.point_id, {})[name] = (rank, hit)
    passages: list[Passage] = []
    marked = 0
    for row in sorted(rows.values(), key=lambda row: min(rank for rank, _ in row.values())):
        texts = {name: hit.text for name, (_, hit) in row.items()}
        has_marks = len(set(texts.values())) > 1 and marked < MARKED_MAX
        marked += has_marks
        pieces = {name: _mark(name, texts) if has_marks else [(text, False)] for name, text in texts.items()}
        passages.append(Passage(row, pieces, len(row) == len(results)))
    return passages


def _mark(name: StoreName, texts: Mapping[StoreName, str]) -> list[tuple[str, bool]]:
    other = next(text for store, text in texts.items() if store != name)
    return mark_words(texts[name], other)


def describe_agreement(found: SearchView | None, passages: Sequence[Passage]) -> str | None:
    """Return in one sentence how far the stores agree; None when they differ, or with nothing to compare. Pure."""
    if found is None or found.differences != 0 or not passages:
        return None
    count = len(passages)
    if not all(one.is_same for one in passages):
        return "The stores agree, except on which passages come last in the list."
    if count == 1:
        return "Both stores found the same passage."
    if all(one.keeps_rank for one in passages):
        return f"Both stores found the same {count} passages in the same order."
    return f"Both stores found the same {count} passages; some with nearly the same score are in another order."
