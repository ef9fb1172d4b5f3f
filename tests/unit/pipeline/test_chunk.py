"""Chunks: sizes, pages, ids, the context limit and halving."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import uuid
from collections.abc import Callable

import pytest

from ingestion_devstack.ollama.minilm import MiniLm
from ingestion_engine.adapters.ollama.word_pieces import WordPieces
from ingestion_engine.domain.ids import hash_text, make_object_id, make_point_id
from ingestion_engine.domain.records import Chunk, Document, ObjectRef, PageSpan, TextFormat
from ingestion_engine.domain.spec import Chunking
from ingestion_engine.pipeline.chunking.chunk import chunk_document, number_chunks, split_refused
from ingestion_engine.pipeline.chunking.sections import WINDOW_CHARS, cut_sections
from ingestion_engine.pipeline.chunking.tokens import CUT_SHARE, TokenLimit, estimate_tokens
from support.corpus.text import FOREIGN, write_big_text, write_paragraphs

REF = ObjectRef("docs", "a.txt", "etag", 1, "2024-01-02T03:04:06Z")
OBJECT_ID = make_object_id("docs", "a.txt")


def make_document(text: str, text_format: TextFormat = TextFormat.PLAIN, pages: tuple[PageSpan, ...] = ()) -> Document:
    return Document(REF, "text/plain", text, text_format, pages=pages)


def chunk(
    text: str, text_format: TextFormat = TextFormat.PLAIN, context_length: int | None = None, **sizes: int
) -> list[Chunk]:
    limit = None if context_length is None else TokenLimit(context_length)
    return list(chunk_document(make_document(text, text_format), Chunking(**sizes), limit=limit))


def prose(seed: int, chars: int) -> str:
    return "\n\n".join(write_paragraphs(random.Random(seed), chars))


def test_a_short_text_is_one_chunk() -> None:
    """White space around the text is not part of the chunk; its ids follow from the text."""
    (only,) = chunk("\n  Hello world.  \n")
    assert (only.text, only.start_char, only.end_char, only.index) == ("Hello world.", 3, 15, 0)
    assert only.content_hash == hash_text("Hello world.")
    assert only.point_id == make_point_id(OBJECT_ID, hash_text("Hello world."), 0)


def test_point_ids_are_uuids_of_version_five() -> None:
    """Anyone can compute them: namespace the object's id, name the text's hash and its occurrence."""
    for number in range(300):
        digest, object_id = hash_text(f"text {number}"), make_object_id("docs", str(number))
        expected = uuid.uuid5(uuid.UUID(object_id), f"{digest}:{number}")
        assert make_point_id(object_id, digest, number) == str(expected)


def test_chunks_end_where_sentences_end() -> None:
    """Ordinary prose is never cut inside a sentence, and chunks are well filled."""
    text = prose(1, 60_000)
    chunks = chunk(text)
    assert all(c.text.endswith(".") for c in chunks)
    assert sum(len(c.text) for c in chunks) / len(chunks) > 700


def test_neighbours_overlap_by_whole_sentences() -> None:
    """Most neighbours share text up to the overlap, never more; without overlap they share none."""
    text = prose(2, 30_000).replace("\n\n", " ")
    chunks = chunk(text, max_chars=600, overlap_chars=200)
    shared = [max(0, a.end_char - b.start_char) for a, b in itertools.pairwise(chunks)]
    assert max(shared) <= 200
    assert sum(s > 0 for s in shared) > len(shared) / 3
    plain = chunk(text, overlap_chars=0)
    assert all(a.end_char <= b.start_char for a, b in itertools.pairwise(plain))


def test_markdown_is_cut_at_headings() -> None:
    """A section that fits stays together with its heading; one that does not starts a chunk."""
    sections = [f"## Heading {i}\n\n{prose(i, 500)}" for i in range(20)]
    chunks = chunk("\n\n".join(sections), TextFormat.MARKDOWN, max_chars=900, overlap_chars=0)
    fitting = [section for section in sections if len(section) <= 900]
    assert len(fitting) > 10
    assert all(any(section in c.text for c in chunks) for section in fitting)


def test_code_blocks_stay_whole() -> None:
    """No section starts inside a fence."""
    code = "```\n" + "\n\n".join(f"# comment {i}" for i in range(400)) + "\n```"
    text = f"{prose(1, 3000)}\n\n{code}\n\n{prose(2, 3000)}"
    start, end = text.index("```"), text.rindex("```")
    starts = itertools.accumulate(map(len, cut_sections([text], 1200, markdown=True)))
    assert not [at for at in starts if start < at < end]


def test_a_chunk_is_on_the_page_where_it_starts() -> None:
    """Pages without text have no chunk; a chunk over two pages belongs to the first."""
    first, third = prose(1, 900), prose(2, 4000)
    pages = (PageSpan(1, 0, len(first)), PageSpan(3, len(first) + 2, len(first) + 2 + len(third)))
    document = make_document(f"{first}\n\n{third}", pages=pages)
    chunks = list(chunk_document(document, Chunking(max_chars=600, overlap_chars=0)))
    assert {c.page for c in chunks} == {1, 3}
    assert all((c.page == 1) == (c.start_char < pages[1].start_char) for c in chunks)
    assert {c.page for c in chunk(first)} == {None}


def test_equal_chunks_have_different_ids() -> None:
    """The n-th same text is occurrence n, in order."""
    chunks = chunk(
        "\n\n".join(["The same paragraph, long enough to be a chunk of its own."] * 4), max_chars=60, overlap_chars=0
    )
    assert [c.point_id for c in chunks] == [make_point_id(OBJECT_ID, chunks[0].content_hash, n) for n in range(4)]


@pytest.mark.parametrize("text_format", list(TextFormat))
def test_an_edit_keeps_the_ids_of_unchanged_chunks(text_format: TextFormat) -> None:
    """A paragraph inserted at the top, or a sentence in the middle, changes a few chunks of hundreds."""
    parts = [f"## Part {i}\n\n{prose(i, 1500)}" for i in range(80)]
    text = "\n\n".join(parts)
    before = {c.point_id for c in chunk(text, text_format)}
    middle = text.index("## Part 40")
    for edited in (
        "A new first paragraph, which was not there.\n\n" + text,
        text[:middle] + "New words. " + text[middle:],
    ):
        after = {c.point_id for c in chunk(edited, text_format)}
        assert len(before) > 100
        assert len(before - after) <= 12
        assert len(after - before) <= 13


def test_lines_without_paragraphs_keep_their_ids_too() -> None:
    """A table with a new row at its top keeps nearly all chunks."""
    rows = [f"id: {i}; name: name {i * 7919 % 1009}; remark: measured in unit {i % 13}" for i in range(4000)]
    before = {c.point_id for c in chunk("\n".join(rows))}
    after = {c.point_id for c in chunk("\n".join(["id: new; name: row", *rows]))}
    assert len(before - after) < 0.15 * len(before)


@pytest.mark.parametrize("context_length", [64, 256, 512])
def test_no_chunk_is_estimated_beyond_the_context(context_length: int) -> None:
    """Chunks over the limit are halved in any language, and no text is lost."""
    for text in (prose(3, 8000), *(pattern.format(1) * 60 for pattern in FOREIGN.values()), "0123456789abcdef" * 400):
        chunks = chunk(text, context_length=context_length)
        assert all(estimate_tokens(c.text) <= CUT_SHARE * context_length for c in chunks)
        covered = {at for c in chunks for at in range(c.start_char, c.end_char)}
        assert all(at in covered for at, char in enumerate(text) if not char.isspace())


@pytest.mark.parametrize("count", [None, lambda text: len(text.split()) + 2])
def test_the_prefix_of_every_chunk_counts(count: Callable[[str], int] | None) -> None:
    """It is embedded with the chunk, so a long one leaves less room."""
    prefix = "search_document: " * 12
    limit = TokenLimit(100, prefix, count)
    chunks = list(chunk_document(make_document(prose(3, 8000)), Chunking(), limit=limit))
    assert all((count or estimate_tokens)(prefix + c.text) <= 100 for c in chunks)
    without = TokenLimit(100, "", count)
    assert len(list(chunk_document(make_document(prose(3, 8000)), Chunking(), limit=without))) < len(chunks)


def test_counted_tokens_fill_the_context_and_leave_no_suspects() -> None:
    """Where the tokenizer is known, no margin is needed."""
    limit = TokenLimit(12, count=lambda text: len(text.split()) + 2)
    assert limit.fits("one two three four five six seven eight nine ten")
    assert not limit.fits("one two three four five six seven eight nine ten eleven")
    assert not limit.is_suspect("one two three four five six seven eight nine ten")
    assert TokenLimit(12).is_suspect("one two three four five six seven eight")


def test_a_context_of_512_tokens_leaves_english_as_it_is() -> None:
    """The default sizes need no halving for prose with the default model, and very little with 256 tokens."""
    text = prose(4, 100_000)
    assert chunk(text, context_length=512) == chunk(text)
    assert len(chunk(text, context_length=256)) < 1.9 * len(chunk(text))


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("The committee met on Tuesday afternoon to discuss the changes to the regional transport plan.", 0.8, 1.3),
        ("東京は日本の首都です。今日はとても良い天気ですね。カタカナとひらがなを使います。", 0.8, 1.2),
        ("Съешь же ещё этих мягких французских булок, да выпей чаю. Москва является столицей России. ", 0.8, 1.2),
        ("서울은 대한민국의 수도입니다. 오늘은 날씨가 매우 좋습니다. 공원에 산책하러 갑시다. ", 0.8, 1.2),
        ("Die Überprüfung der Regale verzögerte sich wegen heftiger Regenfälle um mehrere Wochen.", 0.8, 1.2),
        ("भारी वर्षा के बाद दमकल विभाग ने कार्यालय के सभी तहखानों की जाँच की।", 0.8, 1.6),
        ("หลังจากฝนตกหนัก เจ้าหน้าที่ดับเพลิงได้ตรวจสอบห้องใต้ดินทั้งหมดของอาคารที่ทำการ", 1, 10),
        ("a3f9c2d47be1908fa3f9c2d47be1908f " * 10, 0.8, 1.2),
        (base64.b64encode(hashlib.sha512(b"any bytes").digest() * 4).decode(), 0.8, 1.2),
        ("".join(random.Random(1).choices("ACDEFGHIKLMNPQRSTVWY", k=600)), 0.8, 1.2),
        ("def read(self) -> int:\n    return len(self._waiting) + sum(map(len, self._batches))\n" * 4, 0.7, 1.3),
    ],
)
def test_estimates_are_near_the_models_tokenizer(text: str, least: float, most: float) -> None:
    """They are compared with the tokens that Ollama's runner makes of a text for all-MiniLM-L6-v2."""
    count = WordPieces(MiniLm().read_vocabulary()).count_tokens(text)
    assert least * count <= estimate_tokens(text) <= most * count


def test_refused_chunks_are_halved_at_a_boundary() -> None:
    """The parts are the whole without the white space between, with exact offsets and the whole's page."""
    text = "First sentence of the chunk. Second sentence, which is a bit longer. Third one."
    whole = Chunk(make_point_id(OBJECT_ID, "x", 0), 5, text, 100, 100 + len(text), "x", page=2)
    parts = split_refused(whole)
    assert parts is not None
    left, right = parts
    assert (left.text, right.text) == ("First sentence of the chunk.", text[29:])
    assert (left.start_char, left.end_char, right.start_char, right.end_char) == (100, 128, 129, 100 + len(text))
    assert (left.page, right.page) == (2, 2)


def test_halving_ends() -> None:
    """A chunk can be halved down to single characters, then no further; accents stay with their letters."""
    todo = [Chunk(make_point_id(OBJECT_ID, "x", 0), 0, "e\u0301" * 40 + "wort", 0, 84, "x")]
    pieces = []
    while todo:
        piece = todo.pop(0)
        parts = split_refused(piece)
        if parts is None:
            pieces.append(piece)
        else:
            assert all(len(part.text) < len(piece.text) for part in parts)
            todo += parts
    assert {piece.text for piece in pieces} == {"e\u0301", "w", "o", "r", "t"}
    first = split_refused(Chunk(make_point_id(OBJECT_ID, "x", 0), 0, "e\u0301" * 41, 0, 82, "x"))
    assert first is not None
    assert first[1].text[0] == "e"
    assert split_refused(Chunk(make_point_id(OBJECT_ID, "x", 0), 0, "x", 0, 1, "x")) is None


def test_renumbering_follows_the_order() -> None:
    """After a halving, indexes, hashes and ids are those of the new sequence."""
    chunks = chunk(prose(5, 5000))
    parts = split_refused(chunks[1])
    assert parts is not None
    again = list(number_chunks(OBJECT_ID, [chunks[0], *parts, *chunks[2:]]))
    assert [c.index for c in again] == list(range(len(chunks) + 1))
    assert all(c.content_hash == hash_text(c.text) for c in again)
    assert again[3].point_id == chunks[2].point_id


@pytest.mark.parametrize("text", ["x" * (3 * WINDOW_CHARS), "word " * WINDOW_CHARS, "line\n" * WINDOW_CHARS])
def test_the_splitter_gets_at_most_a_window(text: str) -> None:
    """Sections of texts without any boundary are bounded too, and join to the whole text."""
    sections = list(cut_sections([text], 1200, markdown=False))
    assert max(map(len, sections)) <= WINDOW_CHARS
    assert "".join(sections) == text


def test_large_texts_stream() -> None:
    """The first chunk of a large text is returned before the text is read completely."""
    text = write_big_text(4 * 1024 * 1024, seed=1).decode()
    stream = chunk_document(make_document(text), Chunking())
    assert next(stream).start_char == 0
    assert sum(1 for _ in stream) > 3000


def test_a_heading_stays_with_its_text() -> None:
    """Heading and text are one chunk when both fit."""
    steps = "\n".join(f"- Step {i} of the method, with a word or two about it." for i in range(18))
    text = f"# Book\n\n{'Words. ' * 150}\n\n## Method\n\n{steps}\n\n{'More. ' * 100}"
    document = make_document(text, TextFormat.MARKDOWN)
    chunks = [chunk.text for chunk in chunk_document(document, Chunking())]
    assert not [chunk for chunk in chunks if chunk.strip() == "## Method"]
    assert any(chunk.startswith("## Method\n\n- Step 0") for chunk in chunks)
