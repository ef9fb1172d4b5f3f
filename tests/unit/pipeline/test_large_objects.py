"""Objects that go through temporary files get exactly the same points as objects read in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.records import Point
from ingestion_engine.pipeline import runner, spool, write
from ingestion_engine.pipeline.parsing.detect import HEAD_CHARS, Kind, detect_head, detect_text
from support.doubles import Crash, MemoryBucket
from support.world import World

EVERY = -1
"""A limit that makes every object a large one."""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and windows end inside words, lines and characters."""
    monkeypatch.setattr(spool, "PIECE_BYTES", 37)
    monkeypatch.setattr("ingestion_engine.pipeline.parsing.formats.json.ITEM_CHARS", 300)
    monkeypatch.setattr("ingestion_engine.pipeline.parsing.large.HELD_CHARS", 300)
    monkeypatch.setattr(runner, "WINDOW_CHUNKS", 5)
    monkeypatch.setattr(write, "FLUSH_POINTS", 7)


def prose(first: int, count: int) -> str:
    return "\n\n".join(
        f"Paragraph {i} über Thema {i * 7 % 13} — in full, at length." for i in range(first, first + count)
    )


CORPUS: dict[str, bytes] = {
    "a.txt": prose(0, 40).encode(),
    "bom.txt": b"\xef\xbb\xbf\xef\xbb\xbf" + prose(1, 30).replace("\n", "\r\n").encode(),
    "book.md": f"---\ntitle: The Book\n---\n# A\n\n{prose(2, 20)}\n\n```\n# no\n```\n\n## B\n\n{prose(3, 9)}".encode(),
    "same.txt": b"Always the same words, all over again.\n\n" * 30,
    "utf16.txt": prose(4, 20).encode("utf-16"),
    "wide.log": prose(5, 20).encode("utf-16-le"),
    "western.txt": prose(6, 20).replace("—", "-").encode("cp1252"),
    "damaged.txt": prose(7, 60).encode()[:-30] + b"\xff" + prose(8, 20).encode()[:-1],
    "rows.jsonl": "\n".join(
        json.dumps({"id": i, "text": f"Row {i} \r\n has it — all", "at": {"page": i, "tags": ["a", {"b": [1]}]}})
        for i in range(40)
    ).encode(),
    "unnamed": b'{"a": "first"}\n\n' * 20,
    "brackets.log": b"[2026-01-01 00:00:00] something happened, again\n" * 40,
    "whole.json": json.dumps([{"name": f"n{i}"} for i in range(30)]).encode(),
    "page.html": b"<!doctype html><title>T</title>" + b"<p>A paragraph of the page.</p>" * 30,
    "table.csv": b"a,b\n" + b"1,two\n" * 30,
    "cells.csv": b"name;note\n" + 'Åsa;"two\nlines; and ""quotes"""\n'.encode() * 30 + b'last;"never closed\n' * 9,
    "one-column.csv": prose(10, 9).replace(",", "").encode(),
    "titled.json": json.dumps(
        {"title": "All", "rows": [{"n": i, "t": [1, "é"]} for i in range(40)]}, indent=1
    ).encode(),
    "deep.json": json.dumps({"data": {"rows": [{"n": i} for i in range(90)]}}).encode(),
    "cut.json": json.dumps([{"name": f"n{i}"} for i in range(30)]).encode()[:-9],
    "feed.xml": ("<feed><title>News</title>" + "<item id='1'>An <b>item</b> über x</item>" * 40 + "</feed>").encode(),
    "mixed.xml": ("<doc>" + "<p>A paragraph.</p>" * 40 + "own text</doc>").encode(),
    "cut.xml": ("<feed>" + "<item>An item of the feed.</item>" * 40).encode(),
    "empty.txt": b"",
    "blank.txt": b" \n\t" * 100,
    "mark.txt": b"\xef\xbb\xbf  \n",
    "noise.bin": bytes(range(256)) * 20,
    "photo.png": b"\x89PNG\r\n\x1a\n" + b"x" * 100,
    "named.pdf": prose(9, 10).encode("utf-16")[1:],
    "broken.jsonl": b'{"a": "fine"}\n' * 50 + b'{"a": \n',
    "lines.json": b'{"a": "fine"}\n' * 50,
    "no-end.json": b'{"a": "fine", "title": "T"}' * 50,
    "relaxed.json": b"// settings\n[" + b'{"a": [1, 2, ], /* two */},\n' * 30 + b"]",
    "no.json": b"[" + b"{a: 1}, " * 200 + b"]",
    "no.jsonl": b'{"a": 1}\n' + b"no JSON at all\n" * 30,
    "late.json": json.dumps([{"name": f"n{i}"} for i in range(900)]).encode() + b" oops",
    "cells.ipynb": json.dumps(
        {"cells": [{"cell_type": "code", "source": [f"print({i})\n", "x"]} for i in range(60)]}
    ).encode(),
    "picture.md": b"# A\n\n![alt](data:image/png;base64," + b"iVBORw0KGgo9" * 900 + b")\n\n" + prose(0, 9).encode(),
    "nothing.jsonl": b'{"a": "\\u0007"}\n'.replace(b'"a"', b'""') * 20,
}


def outcome(world: World) -> dict[str, Any]:
    """Return everything that a job wrote, and its requests to the embedder."""
    return {
        "table": world.table(),
        "points": {store.name: list(map(as_values, world.points(store))) for store in world.stores.values()},
        "texts": sorted(world.embedder.texts),
        "batches": sorted(world.embedder.batches),
    }


def as_values(point: Point) -> tuple[Any, ...]:
    payload = {name: value for name, value in point.payload.items() if name != "ingested_at"}
    return point.id, payload, point.vector.tobytes()


def on_both_paths(
    story: Callable[[World], Any], parts: Sequence[str] = ("table", "points", "texts", "batches")
) -> tuple[World, Any]:
    """Run a story with every object in memory and with every object large; assert equal outcomes."""
    worlds = World(), World(large_bytes=EVERY)
    results = [story(world) for world in worlds]
    whole, large = map(outcome, worlds)
    for part in parts:
        assert large[part] == whole[part], part
    assert results[0] == results[1]
    return worlds[1], results[1]


def counts(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary["counts"].items() if "second" not in name}


def test_every_format_gives_the_same_points() -> None:
    """Ids, payloads, vectors, failures and embed calls are equal for every format, readable in pieces or not."""

    def story(world: World) -> Any:
        for key, body in CORPUS.items():
            world.bucket.put(key, body)
            world.bucket.metadata[key] = {"team": "docs"}
        return counts(world.run())

    world, summary = on_both_paths(story)
    failed = {key for key, (state, _) in world.table().items() if state == "failed"}
    assert failed == {
        "empty.txt", "blank.txt", "mark.txt", "noise.bin", "photo.png", "named.pdf", "nothing.jsonl", "cut.json",
        "cut.xml",
    }  # fmt: skip
    assert summary["chunks"] > 300


RECORDS = '{"a": [1, "two"]}\n' * 30_000
LONG_JSON = '[{"a": "' + "b" * 90 + '"}' + ', {"a": [null, 1.5]}' * 30_000 + "]"


@pytest.mark.parametrize(
    ("text", "named", "is_decided"),
    [
        (RECORDS, None, True),
        (RECORDS, Kind.TEXT, True),
        (RECORDS, Kind.JSONL, True),
        (RECORDS + "{", None, True),
        (LONG_JSON, Kind.JSON, True),
        (LONG_JSON, None, False),
        (LONG_JSON + "x", Kind.TEXT, False),
        ('["' + "x" * 400_000 + '"]', None, False),
        ("[" * 400_000, None, False),
        ("[1, 2, oops" + ", 3" * 200_000, None, True),
        ("{} " + " " * 400_000 + "{}", None, False),
        ("[2026-01-01] a line of a log\n" * 20_000, Kind.TEXT, True),
        ("Plain words. " * 40_000, None, True),
        ("# Words\n" * 60_000, Kind.MARKDOWN, True),
        ("From: a\nTo: b\nSubject: c\n\n" + "Words. " * 60_000, None, True),
    ],
)
def test_a_beginning_decides_as_the_whole_does(text: str, named: Kind | None, is_decided: bool) -> None:
    """The beginning of a long text gives the same kind as the whole text, or no decision."""
    decided = detect_head(text[:HEAD_CHARS], named, is_whole=False)
    assert decided is None or decided is detect_text(text, named)
    assert (decided is not None) == is_decided


def test_an_edit_embeds_only_the_changed_chunks() -> None:
    """Stored vectors are reused, window by window."""

    def story(world: World) -> Any:
        text = prose(0, 60)
        world.bucket.put("a.txt", text)
        world.run()
        before = len(world.embedder.texts)
        world.bucket.put("a.txt", "A sentence at the top.\n\n" + text.replace("Paragraph 40 ", "Another "))
        summary = world.run()
        return counts(summary), len(world.embedder.texts) - before

    _, (_, embedded) = on_both_paths(story)
    assert 2 <= embedded <= 15


def test_a_version_that_fails_leaves_the_old_points() -> None:
    """One chunk in the middle cannot be embedded; nothing of the new version is written."""

    def story(world: World) -> Any:
        world.bucket.put("a.txt", prose(0, 30))
        world.bucket.put("b.txt", prose(100, 3))
        world.run()
        before = world.texts("a.txt")
        world.bucket.put("a.txt", prose(50, 20) + "\n\n{NAN} it is.\n\n" + prose(80, 20))
        world.bucket.put("b.txt", prose(200, 3))
        world.run()
        assert world.texts("a.txt") == before
        return world.table()

    _, table = on_both_paths(story)
    assert table == {"a.txt": ("failed", "embedding_nan"), "b.txt": ("present", None)}


def test_a_new_object_that_fails_leaves_nothing() -> None:
    """Its first chunks already have vectors when the refused chunk fails."""

    def story(world: World) -> Any:
        world.bucket.put("a.txt", prose(50, 40) + "\n\n{NAN} it is.")
        world.run()
        return world.texts("a.txt"), world.table()

    _, result = on_both_paths(story)
    assert result == ([], {"a.txt": ("failed", "embedding_nan")})


def test_texts_too_long_are_cut_and_all_numbered_again() -> None:
    """Parts of a chunk are numbered between its neighbours and have ids of that order."""

    def story(world: World) -> Any:
        world.embedder.longest_chars = 45
        world.bucket.put("a.txt", prose(0, 30))
        world.bucket.put("b.txt", "Short.\n\nShort.\n\n" + "Short words, and again words. " * 40)
        world.run()
        return [point.payload["chunk_index"] for point in world.points(world.qdrant, "a.txt")]

    world, indexes = on_both_paths(story)
    assert indexes == list(range(len(indexes)))
    assert len(indexes) > 40
    assert max(map(len, world.texts("a.txt"))) <= 45


def test_an_object_that_changes_before_it_is_read_is_written_in_its_new_version() -> None:
    """Points of the listed version, written by an interrupted run, are removed."""

    def story(world: World) -> Any:
        world.bucket.put("a.txt", prose(0, 30))
        written = [0]

        def cut_off(_kind: str) -> None:
            written[0] += 1
            if written[0] == 12:
                world.bucket.on_get = lambda key: world.bucket.put(key, prose(60, 25))
                raise TransientError("store_unavailable", "weaviate is unavailable")

        world.weaviate.before_write = cut_off
        world.run()
        return world.texts("a.txt")

    _, texts = on_both_paths(story, ("table", "points"))
    assert "\n\n".join(texts) == prose(60, 25)


def test_a_refused_point_fails_its_object_alone() -> None:
    """The refused point may be one of the last."""

    def story(world: World) -> Any:
        world.bucket.put("a.txt", prose(0, 30))
        world.bucket.put("b.txt", prose(50, 30))
        world.qdrant.refuse = lambda point: "odd" if "Paragraph 28 " in point.payload["text"] else None
        world.run()
        return world.table(), world.texts("a.txt")

    _, result = on_both_paths(story)
    assert result == ({"a.txt": ("failed", "store_refused"), "b.txt": ("present", None)}, [])


@pytest.mark.parametrize("mode", ["verify", "repair"])
def test_parity_of_large_objects(mode: str) -> None:
    """Lost points are found, and in mode repair written again."""

    def story(world: World) -> Any:
        world.bucket.put("a.txt", prose(0, 30))
        world.run()
        for point in world.points(world.qdrant)[3:9]:
            del world.qdrant.collections["notes"][point.id]
        for point in world.points(world.weaviate)[5:7]:
            del world.weaviate.collections["notes"][point.id]
        world.run(mode=mode)
        return len(world.points(world.qdrant))

    _, left = on_both_paths(story)
    assert (left < 30) == (mode == "verify")


def test_a_killed_attempt_is_completed_by_the_next() -> None:
    """The process ends while the points of a large object are being written."""

    def story(world: World) -> Any:
        world.bucket.put("a.txt", prose(0, 40))
        ledger = world.submit()
        written = [0]

        def kill(_kind: str) -> None:
            written[0] += 1
            if written[0] == 7:
                raise Crash

        world.weaviate.before_write = kill
        with pytest.raises(Crash):
            world.attempt(ledger)
        assert world.attempt(ledger, 2) is not None
        return world.texts("a.txt")

    _, texts = on_both_paths(story, ("table", "points"))  # how much the killed attempt wrote is not deterministic
    assert "\n\n".join(texts) == prose(0, 40)


class FullDisk(MemoryBucket):
    """Its first body does not fit on the disk."""

    fetched = 0

    async def fetch_into(self, *args: Any, **options: Any) -> Any:
        self.fetched += 1
        if self.fetched == 1:
            raise OSError(28, "No space left on device")
        return await super().fetch_into(*args, **options)


def test_a_full_disk_is_retried() -> None:
    """It does not count against the object: the partition is retried and completes."""
    bucket = FullDisk()
    world = World(bucket=bucket, large_bytes=EVERY)
    bucket.put("a.txt", prose(0, 10))
    assert world.run()["state"] == "succeeded"
    assert bucket.fetched == 2
    assert "\n\n".join(world.texts("a.txt")) == prose(0, 10)
