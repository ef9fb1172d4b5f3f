"""Faults of semantic-text-splitter that chunking avoids, and that it changes nothing else."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from ingestion_engine.domain.records import Document, ObjectRef, TextFormat
from ingestion_engine.domain.spec import Chunking
from ingestion_engine.pipeline.chunking.chunk import _MOST_SQUARES, _split, chunk_document, has_long_blanks


class Spy:
    """A splitter that keeps what it is given."""

    def __init__(self, kind: type[TextSplitter | MarkdownSplitter], max_chars: int, overlap: int) -> None:
        self._splitter = kind(max_chars, overlap)
        self.seen: list[str] = []

    def chunk_indices(self, text: str) -> list[tuple[int, str]]:
        self.seen.append(text)
        return self._splitter.chunk_indices(text)


LINE_ENDS = ("\n", " \n", "\x85", "\u2028", "\n\u2029 ")
UNITS = [
    pytest.param(unit, id=f"{end!r} {run}")
    for end in LINE_ENDS
    for run in (20_000, 1_300, 1_199, 400, 150)
    for unit in ["words" + (end * run)[:run]]
]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", [TextSplitter, MarkdownSplitter])
def test_white_space_without_end(unit: str, kind: type[TextSplitter | MarkdownSplitter]) -> None:
    """The splitter, whose time grows with the square of it, sees little in a row; no word is lost."""
    section = unit * (100_000 // len(unit))
    spy = Spy(kind, 1_200, 150)
    chunks = _split(section, spy, 1_200)  # type: ignore[arg-type]  # has the one method that is called
    squares = sum(len(blank) ** 2 for text in spy.seen for blank in re.findall(r"\s+", text))
    assert squares < 2 * _MOST_SQUARES
    found = [place.start() for place in re.finditer("words", section)]
    held = [start + place.start() for start, text in chunks for place in re.finditer("words", text)]
    assert sorted(set(held)) == found
    assert all(section[start : start + len(text)] == text for start, text in chunks)


def test_usual_white_space_changes_no_chunk() -> None:
    """Random texts are cut where the splitter alone cuts them, also with some hundred blank lines in them."""
    rng = random.Random(3)
    words = ("alpha", "beta.", "gamma, ", "\n", "\n\n", "\n\n\n", " ", "\n- item", " é", "x" * 40, " \n" * 90)
    for _ in range(150):
        max_chars = rng.choice((400, 800, 1_200))
        splitter = TextSplitter(max_chars, rng.choice((0, max_chars // 10, max_chars // 2)))
        text = "".join(rng.choices(words, k=rng.randint(1, 90)))
        if max(map(len, re.findall(r"\s+", text)), default=0) < max_chars:
            assert _split(text, splitter, max_chars) == splitter.chunk_indices(text)


def test_texts_with_much_white_space_are_cut_in_a_thread() -> None:
    """Every one of them is known, by a few of its characters."""
    assert not has_long_blanks("Words and a few words.\n\n\n\n" * 400)
    for run in (144, 200, 5_000):
        for before in range(40):
            assert has_long_blanks("x" * before + "\n" * run + "y")


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
