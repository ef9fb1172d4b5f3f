"""Faults of semantic-text-splitter that chunking avoids, and that it changes nothing else."""

from __future__ import annotations

import itertools
import random

import pytest
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from ingestion_engine.domain.records import Document, ObjectRef, TextFormat
from ingestion_engine.domain.spec import Chunking
from ingestion_engine.pipeline.chunking.chunk import _hide_lines, _split, chunk_document


def test_blank_lines_without_end() -> None:
    """The splitter sees a bounded number of line ends in white space that no chunk reaches across."""
    blank = " \n" * 60_000
    hidden = _hide_lines(blank, 1_200)
    assert len(hidden) == len(blank)
    assert hidden.isspace()
    assert hidden.count("\n") < 200
    assert _hide_lines(blank[:1_000], 1_200) == blank[:1_000]


def test_hidden_lines_change_no_chunk() -> None:
    """Random texts with long white space are cut where the splitter alone cuts them."""
    rng = random.Random(3)
    words = ("alpha", "beta.", "gamma, ", "\n", "\n\n", "\n\n\n", " ", "\n- item", " é", "x" * 40)
    for _ in range(150):
        max_chars = rng.choice((80, 200, 400))
        splitter = TextSplitter(max_chars, rng.choice((0, max_chars // 10, max_chars // 2)))
        text = "".join(
            part
            for _ in range(rng.randint(1, 3))
            for part in (
                *rng.choices(words, k=rng.randint(1, 60)),
                *rng.choices((" \n", "\n ", " \n\t", "\n\n "), k=rng.randint(0, 400)),
            )
        )
        alone = [(start, start + len(chunk)) for start, chunk in splitter.chunk_indices(text) if chunk.strip()]
        ours = _split(text, splitter, max_chars, markdown=False)
        assert [(start, start + len(chunk)) for start, chunk in ours if chunk.strip()] == alone


PANIC = (
    "mma,  "
    + "x" * 40
    + "beta. beta.gamma, # head  \n é"
    + "x" * 40
    + " beta. \n gamma, beta. "
    + "x" * 40
    + " # head  beta."
)


def test_a_panic_of_the_splitter() -> None:
    """It is no Exception, so it would end the worker; the section is cut as plain text instead."""
    with pytest.raises(BaseException, match="Invalid byte sequence") as caught:
        MarkdownSplitter(120, 60).chunk_indices(PANIC)
    assert not isinstance(caught.value, Exception)
    ref = ObjectRef("docs", "a.md", "etag", len(PANIC), "2024-01-02T03:04:06Z")
    document = Document(ref=ref, content_type="text/markdown", text=PANIC, text_format=TextFormat.MARKDOWN)
    chunks = list(chunk_document(document, Chunking(max_chars=120, overlap_chars=60)))
    assert [PANIC[chunk.start_char : chunk.end_char] for chunk in chunks] == [chunk.text for chunk in chunks]
    gaps = [PANIC[left.end_char : right.start_char] for left, right in itertools.pairwise(chunks)]
    assert not "".join(gaps).strip()
