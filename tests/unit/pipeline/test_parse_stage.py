"""Parsing as a stage: off the event loop, bounded, with a time limit, and cheap to import."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from ingestion_engine.domain.errors import ObjectError, TransientError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing import parse, parser_threads
from ingestion_engine.pipeline.parsing.parse import parse_object
from support.corpus.pdf import build_pdf

LIMITS = FrozenLimits(decompressed_max_bytes=1024 * 1024)


def make_raw(key: str, body: bytes, content_type: str | None = None) -> RawObject:
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    return RawObject(ref, body, content_type, {"team": "docs"})


async def test_parse_object_leaves_the_loop_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop runs other tasks while a parse blocks its thread."""
    started, release = threading.Event(), threading.Event()

    def wait(text: str) -> parse.ParsedText:
        started.set()
        release.wait(10)
        return parse.ParsedText(text)

    monkeypatch.setattr("ingestion_engine.pipeline.parsing.formats.tables.read_csv", wait)
    task = asyncio.create_task(parse_object(make_raw("a.csv", b"a,b\n"), limits=LIMITS))
    assert await asyncio.to_thread(started.wait, 10)
    assert not task.done()
    release.set()
    assert (await task).text == "a,b\n"


async def test_parse_object_raises_object_errors() -> None:
    """An error of the thread is raised unchanged to the caller."""
    with pytest.raises(ObjectError, match="no bytes") as caught:
        await parse_object(make_raw("a.txt", b""), limits=LIMITS)
    assert caught.value.code == "empty_document"


async def test_hanging_parses_time_out_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging parse fails its object at the time limit; too many of them stop all parsing until they end."""
    release = threading.Event()

    def hang(text: str) -> parse.ParsedText:
        release.wait(30)
        return parse.ParsedText(text)

    monkeypatch.setattr("ingestion_engine.pipeline.parsing.formats.tables.read_csv", hang)
    short = FrozenLimits(parse_timeout_s=0.05)
    try:
        for _ in range(parser_threads.MAX_ABANDONED):
            with pytest.raises(ObjectError) as caught:
                await parse_object(make_raw("a.csv", b"a,b\n"), limits=short)
            assert caught.value.code == "parse_timeout"
        with pytest.raises(TransientError) as stuck:
            await parse_object(make_raw("b.csv", b"innocent"), limits=LIMITS)
        assert stuck.value.code == "parser_stuck"
    finally:
        release.set()
    for thread in threading.enumerate():
        if thread.name == "parse":
            thread.join()
    assert (await parse_object(make_raw("b.csv", b"innocent"), limits=LIMITS)).text == "innocent"


async def test_short_texts_need_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text and Markdown of a few kilobytes are read on the event loop; all other objects are not."""
    started: list[str] = []

    async def run_parse(work: Callable[[parser_threads.OnStart], Document], timeout_s: float) -> Document:
        document = work(lambda _cancel: None)
        started.append(document.ref.key)
        return document

    monkeypatch.setattr(parse, "run_parse", run_parse)
    long = b"x" * (parse.QUICK_BYTES + 1)
    bodies = {
        "short.txt": b"Caf\xc3\xa9.", "short.md": b"# T\n\nText.", "long.txt": long, "latin.txt": b"Caf\xe9.",
        "page.txt": b"<html><p>Text.</p></html>", "mail.txt": b"From: a\nTo: b\nSubject: c\n\nText.",
        "data.json": b'{"a": "b"}', "paper.txt": build_pdf("T", [["text"]]),
    }  # fmt: skip
    for key, body in bodies.items():
        await parse_object(make_raw(key, body), limits=LIMITS)
    assert started == ["long.txt", "latin.txt", "page.txt", "mail.txt", "data.json", "paper.txt"]


def test_importing_the_stage_is_cheap() -> None:
    """Libraries are imported with the first document that needs them."""
    code = (
        "import sys, ingestion_engine.pipeline.parsing.parse, ingestion_engine.pipeline.chunking.chunk;"
        "print([m for m in ('kreuzberg', 'charset_normalizer', 'semantic_text_splitter', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
