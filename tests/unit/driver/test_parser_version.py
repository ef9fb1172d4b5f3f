"""A release with another parser reads every object again, and embeds only the chunks whose text it reads otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, RawObject, ReadWarning
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline import load
from ingestion_engine.pipeline.parsing import parse
from support.world import PARAGRAPHS, World, balanced

CHUNKS = {"same.txt": 12, "long.md": 240, "cut.txt": 9, "lost.txt": 6, "unread.txt": 4}
MARKED = "[FOOTNOTE]"
"""What only the new parser reads, in the middle of ``long.md`` and at the end of ``lost.txt``."""


def paragraphs(key: str) -> list[str]:
    return [f"{PARAGRAPHS[i % 12]} ({key} {i})" for i in range(CHUNKS[key])]


class Releases:
    """Two parsers: the old one drops footnotes, doubles a paragraph and fails on one object."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World()
        self.parsed: list[str] = []
        monkeypatch.setattr(load, "parse_object", self.parse)

    async def parse(self, raw: RawObject, *, limits: FrozenLimits) -> Document:
        self.parsed.append(raw.ref.key)
        document = parse.parse_bytes(raw, limits)
        if self.world.parser_version == "parser-2":
            title = "A title" if raw.ref.key == "same.txt" else document.title
            return replace(document, title=title, warnings=(ReadWarning("part_unreadable", 1, "x"),))
        if raw.ref.key == "unread.txt":
            raise ObjectError("corrupt_document", "The old parser does not read it.")
        parts = [part for part in document.text.split("\n\n") if MARKED not in part]
        if raw.ref.key == "cut.txt":
            parts.insert(4, parts[3])
        return replace(document, text="\n\n".join(parts))

    def run(self, **request: Any) -> dict[str, Any]:
        self.parsed.clear()
        self.world.embedder.texts.clear()
        return self.world.run(**request)


def fill(world: World) -> None:
    for key in CHUNKS:
        parts = paragraphs(key)
        if key in ("long.md", "lost.txt"):
            parts.insert(len(parts) // 2 if key == "long.md" else len(parts), f"{MARKED} of {key}, read by one only.")
        world.bucket.put(key, "\n\n".join(parts))


def test_another_parser_reads_all_and_embeds_what_it_reads_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two footnotes and an object that failed before; a text that is read once instead of twice costs nothing."""
    releases = Releases(monkeypatch)
    world = releases.world
    fill(world)
    first = releases.run()
    assert (first["counts"]["done"], first["counts"]["failed"]) == (4, 1)
    assert first["counts"]["chunks_embedded"] >= 260
    unchanged = releases.run()
    assert (releases.parsed, world.embedder.texts, unchanged["counts"]["failed_before"]) == ([], [], 1)
    before = {key: world.texts(key) for key in CHUNKS}

    world.parser_version = "parser-2"
    second = releases.run()
    counts = second["counts"]
    assert balanced(second)
    assert sorted(releases.parsed) == sorted(CHUNKS), "every object is read once"
    assert (counts["done"], counts["failed"], counts["objects_with_warnings"]) == (5, 0, 5)
    after = {key: world.texts(key) for key in CHUNKS}
    fresh = [text for key in CHUNKS for text in after[key] if text not in before[key]]
    assert sorted(world.embedder.texts) == sorted(fresh)
    footnotes = [text for text in fresh if MARKED in text]
    assert len(footnotes) == 2
    assert len(fresh) - len(after["unread.txt"]) <= 4, "the footnotes' chunks and their neighbours"
    assert counts["chunks_embedded"] == len(fresh)
    assert counts["chunks_reused"] == counts["chunks"] - len(fresh) >= 255
    assert set(after["cut.txt"]) == set(before["cut.txt"])
    assert len(after["cut.txt"]) < len(before["cut.txt"]), "the second copy of a paragraph is gone from both stores"
    points = world.points(world.qdrant, "same.txt")
    assert {point.payload.get("title") for point in points} == {"A title"}, "rewritten, without embedding"

    releases.run()
    assert (releases.parsed, world.embedder.texts) == ([], []), "and nothing again"


def test_large_objects_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go through temporary files, and another parser reads them alike here: nothing is embedded."""
    world = World(large_bytes=-1)
    fill(world)
    first = world.run()
    world.embedder.texts.clear()
    world.parser_version = "parser-2"
    second = world.run()
    assert (second["counts"]["changed"], second["counts"]["done"]) == (5, 5)
    assert (second["counts"]["chunks_embedded"], world.embedder.texts) == (0, [])
    assert second["counts"]["chunks_reused"] == first["counts"]["chunks"]
