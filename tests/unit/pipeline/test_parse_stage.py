"""Parsing as a stage: off the event loop, bounded, with a time limit, and cheap to import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing import parse
from ingestion_engine.pipeline.parsing.parse import parse_object
from support.corpus.pdf import build_pdf

LIMITS = FrozenLimits(decompressed_max_bytes=1024 * 1024)


def make_raw(key: str, body: bytes, content_type: str | None = None) -> RawObject:
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    return RawObject(ref, body, content_type, {"team": "docs"})


async def test_parse_object_raises_object_errors() -> None:
    """An error of the parser process is raised unchanged to the caller."""
    with pytest.raises(ObjectError, match="no bytes") as caught:
        await parse_object(make_raw("a.txt", b""), limits=LIMITS)
    assert caught.value.code == "empty_document"


async def test_short_texts_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text and Markdown of a few kilobytes are read on the event loop; all other objects are not."""
    started: list[str] = []

    async def run_parse(function: Callable[..., Document], *arguments: Any, timeout_s: float) -> Document:
        document = function(*arguments)
        started.append(document.ref.key)
        return document

    monkeypatch.setattr(parse, "run_parse", run_parse)
    long = b"x" * (parse.QUICK_BYTES + 1)
    bodies = {
        "short.txt": b"Caf\xc3\xa9.", "short.md": b"# T\n\nText.", "long.txt": long, "latin.txt": b"Caf\xe9.",
        "page.txt": b"<html><p>Text.</p></html>",
        "mail.txt": b"From: a@example.org\nTo: b@example.org\nMessage-ID: <1@example.org>\nSubject: c\n\nText.",
        "data.json": b'{"a": "b"}', "paper.txt": build_pdf("T", [["text"]]),
    }  # fmt: skip
    for key, body in bodies.items():
        await parse_object(make_raw(key, body), limits=LIMITS)
    assert started == ["long.txt", "latin.txt", "page.txt", "mail.txt", "data.json", "paper.txt"]


def test_importing_the_stage_is_cheap() -> None:
    """Libraries are imported with the first document that needs them."""
    code = (
        "import sys, ingestion_engine.pipeline.parsing.parse, ingestion_engine.pipeline.chunking.chunk;"
        "print([m for m in ('pypdfium2', 'charset_normalizer', 'semantic_text_splitter', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
