"""Chunks within the rows of a Markdown table have its header as context; their text and offsets stay exact."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.domain.records import Chunk, Document, ObjectRef, TextFormat
from ingestion_engine.domain.spec import Chunking
from ingestion_engine.pipeline.chunking.chunk import chunk_document, chunk_pieces, split_refused
from ingestion_engine.pipeline.chunking.sections import WINDOW_CHARS
from ingestion_engine.pipeline.chunking.tokens import CUT_SHARE, TokenLimit
from ingestion_engine.pipeline.points import PointStamp

REF = ObjectRef("docs", "a.md", "etag", 1, "2024-01-02T03:04:06Z")
HEADER = "| City | Inhabitants |"
STAMP = PointStamp(job_id="j", epoch=1, ingested_at="t", embedding_id="e" * 16, prefix="", metadata={})


def rows(count: int, name: str = "Place") -> str:
    return "".join(f"| {name} number {n} | {n * 997} |\n" for n in range(count))


def chunk(text: str, max_chars: int = 200, limit: TokenLimit | None = None, overlap_chars: int = 0) -> list[Chunk]:
    document = Document(REF, "text/markdown", text, TextFormat.MARKDOWN)
    chunking = Chunking(max_chars=max_chars, overlap_chars=overlap_chars)
    chunks = list(chunk_document(document, chunking, limit=limit))
    assert all(text[one.start_char : one.end_char] == one.text for one in chunks)
    pieces = [text[at : at + 777] for at in range(0, len(text), 777)]
    assert list(chunk_pieces(pieces, document, chunking, limit=limit)) == chunks
    return chunks


@pytest.mark.parametrize("overlap_chars", [0, 60])
@pytest.mark.parametrize("count", [40, 9_000], ids=["short", "several sections"])
def test_every_chunk_of_a_long_table_has_its_header(count: int, overlap_chars: int) -> None:
    """The one with the header itself, and those before and behind the table, have none."""
    text = f"# Cities\n\nBefore.\n\n{HEADER}\n|---|---:|\n{rows(count)}\n" + "Behind the table. " * 30
    assert (len(text) > WINDOW_CHARS) == (count > 40)
    chunks = chunk(text, overlap_chars=overlap_chars)
    behind = text.index("Behind")
    inside = text.index("|---|")
    for one in chunks:
        assert one.context == (HEADER if inside <= one.start_char < behind - 1 else "")
    assert sum(bool(one.context) for one in chunks) >= count // 10


@pytest.mark.parametrize(
    "text",
    [
        "a | b\n--- | ---\n",
        "| a | b |\n| :-- | :-: |\n",
        "   |a|b|\n|-|-|\n",
        "| a \\| x | b |\n|---|---|\n",
        "| a |\n|---|\n",
    ],
)
def test_forms_of_a_header(text: str) -> None:
    """With and without outer bars, with alignment, with a bar in a cell, with one column."""
    header = text.split("\n", maxsplit=1)[0].strip()
    found = chunk(text + "| 1 | 2 |\n" * 60)
    assert [one.context for one in found] == ["", *[header] * (len(found) - 1)]


@pytest.mark.parametrize(
    "text",
    [
        "Heading | of two\n---\n\n",
        "| a | b | c |\n|---|---|\n",
        "a heading\n---\n",
        "| a | b |\n\n|---|---|\n",
        "| " + "long name | x" * 30 + " |\n" + "|---" * 31 + "|\n",
    ],
    ids=["setext", "other number of cells", "no bar", "blank line between", "too long"],
)
def test_what_is_no_header(text: str) -> None:
    """Nothing is guessed, and a header of more than a quarter of a chunk is not repeated."""
    assert not any(one.context for one in chunk(text + "| 1 | 2 |\n" * 60))


def test_two_tables_have_their_own_headers() -> None:
    """A blank line, or one without a bar, ends a table."""
    second = "| River | Length |"
    text = (
        f"{HEADER}\n|---|---|\n{rows(30)}\n{second}\n|---|---|\n{rows(30, 'River')}The end.\n\nA | b.\n" + "x y " * 99
    )
    for one in chunk(text):
        river, end = text.index(second), text.index("The end")
        expected = HEADER if one.start_char < river else second if one.start_char < end else ""
        assert one.context == ("" if HEADER in one.text or second in one.text else expected)


def test_text_without_a_table_and_plain_text_have_no_context() -> None:
    """Their ids are those of earlier releases."""
    table = f"{HEADER}\n|---|---|\n{rows(40)}"
    plain = Document(REF, "text/plain", table, TextFormat.PLAIN)
    assert not any(one.context for one in chunk_document(plain, Chunking(max_chars=200, overlap_chars=0)))
    (one, *_) = chunk("a word | and another. " * 40)
    assert one.context == ""
    assert STAMP.embedding_id_of(one) == f"{'e' * 16}-{one.content_hash[:16]}"


def test_another_header_is_another_vector() -> None:
    """Same text, id and hash of the text; the vector is that of header and text, and no other is reused."""
    ours, theirs = (
        chunk(f"{header}\n|---|---|\n{rows(40)}", max_chars=200) for header in (HEADER, HEADER.replace("City", "Town"))
    )
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=True) if one.context]
    assert len(pairs) >= 5
    for one, other in pairs:
        assert (one.point_id, one.content_hash) == (other.point_id, other.content_hash)
        assert STAMP.embedding_id_of(one) != STAMP.embedding_id_of(other)
        assert one.embedded_text == f"{HEADER}\n{one.text}"


def test_the_header_counts_for_the_limit_of_the_model() -> None:
    """A chunk is cut smaller for it; one that takes more than a quarter of the limit is left out."""
    text = f"{HEADER}\n|---|---|\n{rows(80)}"
    limit = TokenLimit(60)
    chunks = chunk(text, max_chars=400, limit=limit)
    assert all(limit.share(one.embedded_text) <= CUT_SHARE for one in chunks)
    assert sum(one.context == HEADER for one in chunks) >= len(chunks) - 2
    assert not any(one.context for one in chunk(text, max_chars=400, limit=TokenLimit(20)))


def test_halves_of_a_refused_chunk_keep_the_header() -> None:
    """Of the table that each begins in, also where the chunk itself begins before or ends behind it."""
    text = f"Before.\n\n{HEADER}\n|---|---|\n{rows(9)}"
    (whole,) = chunk(text, max_chars=2_000)
    assert whole.context == ""
    parts = split_refused(whole)
    assert parts is not None
    assert [part.context for part in parts] == ["", HEADER]
    again = split_refused(parts[1])
    assert again is not None
    assert [part.context for part in again] == [HEADER, HEADER]


_LINES = st.sampled_from(
    [
        "| a | b |\n",
        "|---|---|\n",
        "a | b\n",
        "-|-\n",
        "\n",
        "text\n",
        "| 1 | 2 |\n",
        "|\n",
        "---\n",
        "```\n",
        "x" * 90 + "\n",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_LINES, min_size=1, max_size=60).map("".join).filter(str.strip), st.integers(50, 120))
def test_a_context_is_a_line_of_the_document_above_a_delimiter(text: str, max_chars: int) -> None:
    """Every context is one, before its chunk; the chunks do not depend on it."""
    headers = set(re.findall(r"(?m)^([^\n]*\|[^\n]*|[^\n]+)\n {0,3}\|?-[-| ]*$", text))
    for one in chunk(text, max_chars):
        assert not one.context or one.context in {header.strip() for header in headers}
        assert one.context in text[: one.start_char]
