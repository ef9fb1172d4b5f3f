"""Where an object is read, and where its pieces end, makes no difference to anything."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ObjectHead, ObjectRef, RawObject
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunking import sections
from ingestion_engine.pipeline.chunking.chunk import chunk_document, chunk_pieces
from ingestion_engine.pipeline.chunking.sections import cut_sections
from ingestion_engine.pipeline.chunking.tokens import TokenLimit
from ingestion_engine.pipeline.parsing.body import WholeBody
from ingestion_engine.pipeline.parsing.data_urls import drop_data_urls, drop_from_pieces
from ingestion_engine.pipeline.parsing.decode import Encoding, NotTextError, choose_encoding, decode_pieces
from ingestion_engine.pipeline.parsing.kinds import Kind
from ingestion_engine.pipeline.parsing.large import read_large
from ingestion_engine.pipeline.parsing.parse import parse_bytes, parse_object
from ingestion_engine.pipeline.parsing.parsed_text import clean_pieces, clean_text
from support.pieces import read_pieces

Part = TypeVar("Part", str, bytes)

CUTS = st.lists(st.integers(0, 10_000), max_size=30)
"""Places to cut at, modulo the length."""

SCRAPS = st.one_of(
    st.text(max_size=30),
    st.sampled_from((
        "\n", "\n\n", "\r\n", "\r", "\v", "\ufeff", "\0", "\x07", " ", ". ", "# Heading\n", "```\n", "~~~\n", "---\n",
        "title: A title\n", "[", "{", '"', "👩‍👩‍👧‍👦", "e\u0301", "東京は日本の首都です。", "Größe und Übermut, ",
        "x" * 300,        "word " * 60,
        "A sentence. " * 20, "\n\nA paragraph of its own.\n\n", '{"a": "b", "c": [1, {"d": null}]}\n', "<p>", "€",
    )),
)  # fmt: skip
TEXTS = st.lists(SCRAPS, min_size=1, max_size=30).map("".join)
CODECS = st.sampled_from((
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp1252", "latin-1", "cp932",
    "gb18030", "iso2022_jp_2", "koi8_r",
    "cp1251", "iso2022_jp_ext", "iso2022_kr", "hz", "utf-7", "euc_jp",
))  # fmt: skip
BODIES = st.builds(lambda text, codec: text.encode(codec, "ignore"), TEXTS, CODECS)
DAMAGED = st.builds(
    lambda body, at, damage: body[: at % (len(body) + 1)] + damage + body[at % (len(body) + 1) :],
    BODIES,
    st.integers(0, 10_000),
    st.sampled_from((b"", b"", b"\xff", b"\xe2\x82", b"\xf0\x9f", b"\xd8\x00", b"\x80\x80\x80")),
)
DECLARED = st.sampled_from((None, "text/plain; charset=shift_jis", "text/plain; charset=zlib", "text/x; charset=nix"))
NAMES = st.sampled_from(("a.txt", "a.md", "a.jsonl", "a.log", "a", "a.json", "a.html", "a.csv", "a.pdf"))


def cut_up(whole: Part, cuts: Sequence[int]) -> list[Part]:
    places = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(places)]


@dataclass(frozen=True, slots=True)
class CutBody(WholeBody):
    """A body that comes in the pieces that a test wants."""

    cuts: Sequence[int] = ()

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        yield from cut_up(self.body[start:], self.cuts)


def attempt(work: Any, *arguments: Any) -> Any:
    """What a call returns, or the error that it raises."""
    try:
        return work(*arguments)
    except ObjectError as error:
        return error.code, error.message
    except NotTextError as error:
        return type(error)


@settings(max_examples=300, deadline=None)
@given(DAMAGED, CUTS, st.sampled_from((None, "shift_jis", "unicode_escape", "base64", "no-such-codec")))
def test_decoding(body: bytes, cuts: list[int], declared: str | None) -> None:
    """The same encoding is chosen, and gives what Python's own decoding of the whole gives."""
    cut = CutBody(body, cuts)
    encoding = attempt(lambda: choose_encoding(WholeBody(body), declared=declared))
    assert attempt(lambda: choose_encoding(cut, declared=declared)) == encoding
    if isinstance(encoding, Encoding):
        text = body[encoding.skip :].decode(encoding.name, encoding.errors)
        if encoding.replaced and not encoding.name.startswith("utf-"):
            text = re.sub("[\x80-\x9f]", "\ufffd", text)
        assert "".join(decode_pieces(cut, encoding)) == text


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters() | st.sampled_from("\r\n\v\ufeff\0")), CUTS)
def test_cleaning(text: str, cuts: list[int]) -> None:
    """Line ends and byte order marks that fall on a border are one."""
    assert "".join(clean_pieces(cut_up(text, cuts))) == clean_text(text)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(('{"a": "b\\r"}', '{"": [1, {"a": 2}]}', "", " \r", "\ufeff[]", '"x"', "{", "\u2028"))),
    CUTS,
)
def test_json_lines(lines: list[str], cuts: list[int]) -> None:
    """Records are the same, and so is the line that an error names."""
    text = "\n".join(lines)
    pieces = cut_up(text, cuts)
    assert read_pieces(Kind.JSONL, lambda: pieces) == read_pieces(Kind.JSONL, lambda: [text])


DATA_URLS = st.lists(
    st.sampled_from((
        "data:", "image/png", ";base64,", ",", "A9b+/" * 13, "A9b+/" * 130, "\n  ", "\n", " ", ")", '"', "%3Csvg%20",
        "![alt](data:image/png;base64,", " words ", "x" * 5000, "Zz09" * 2000 + "\n", "data:image/svg+xml,",
        "%20" * 40, ";x=1", "=",
    )),
    max_size=25,
).map("".join)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(DATA_URLS, CUTS)
def test_data_urls(text: str, cuts: list[int]) -> None:
    """Also those that are longer than a piece, on several lines, or cut anywhere; nothing is left to drop."""
    dropped = drop_data_urls(text)
    assert "".join(drop_from_pieces(cut_up(text, cuts))) == dropped
    assert dropped.count("words ") == text.count("words ")


@settings(max_examples=300, deadline=None)
@given(TEXTS, CUTS, st.booleans(), st.integers(50, 400), st.integers(100, 2_000))
def test_sections(text: str, cuts: list[int], markdown: bool, max_chars: int, window: int) -> None:
    """Also those of lines that are longer than a window, cut within."""
    kept, sections.WINDOW_CHARS = sections.WINDOW_CHARS, window
    try:
        whole = list(cut_sections([text], max_chars, markdown=markdown))
        assert list(cut_sections(cut_up(text, cuts), max_chars, markdown=markdown)) == whole
    finally:
        sections.WINDOW_CHARS = kept
    assert "".join(whole) == text
    assert max(map(len, whole), default=0) <= max(window, 16 * max_chars) + 16


@settings(max_examples=300, deadline=None)
@given(DAMAGED, CUTS, NAMES, DECLARED)
def test_large_objects(body: bytes, cuts: list[int], key: str, declared: str | None) -> None:
    """Document, chunks or error are those of the object read whole, where it can be read in pieces."""
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    large = attempt(lambda: read_large(CutBody(body, cuts), ObjectHead(ref, declared, {"team": "docs"})))
    if large is None:
        return
    whole = attempt(lambda: parse_bytes(RawObject(ref, body, declared, {"team": "docs"}), FrozenLimits()))
    if isinstance(large, tuple):
        assert large == whole
        return
    chunking, limit = Chunking(max_chars=120, overlap_chars=20), TokenLimit(40)
    assert "".join(large.text.pieces()) == whole.text
    assert large.document.text == ""
    assert (large.document.title, large.document.content_type) == (whole.title, whole.content_type)
    assert large.document.text_format is whole.text_format
    assert (large.document.ref, large.document.metadata) == (whole.ref, whole.metadata)
    chunks = chunk_pieces(cut_up(whole.text, cuts), large.document, chunking, limit=limit)
    assert list(chunks) == list(chunk_document(whole, chunking, limit=limit))


@settings(max_examples=300, deadline=None)
@given(DAMAGED | st.sampled_from((b"", b" \n", b"%PDF-1.7", b"{\\rtf1 x}")), NAMES, DECLARED)
def test_short_objects(body: bytes, key: str, declared: str | None) -> None:
    """What is read on the event loop is what is read in a thread, or the same error."""
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    raw = RawObject(ref, body, declared, {"team": "docs"})
    in_thread = attempt(lambda: parse_bytes(raw, FrozenLimits()))
    assert attempt(lambda: asyncio.run(parse_object(raw, limits=FrozenLimits()))) == in_thread
