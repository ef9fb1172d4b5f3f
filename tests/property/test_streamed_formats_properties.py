"""Tables, JSON and XML that are read in pieces give the text and the title that they give whole."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.formats import json as json_format
from ingestion_engine.pipeline.parsing.formats.json import JsonText
from ingestion_engine.pipeline.parsing.formats.tables import read_csv, render_csv
from ingestion_engine.pipeline.parsing.formats.xml import XmlText
from ingestion_engine.pipeline.parsing.kinds import Kind
from ingestion_engine.pipeline.parsing.pieces import NeedsWholeTextError
from support.pieces import read_pieces

CUTS = st.lists(st.integers(0, 10_000), max_size=40)
"""Places to cut at, modulo the length."""

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=6) | st.sampled_from(
    ("a", "b c", " d ", "", "1", "é", "👩‍👩‍👧", 'say "so"', "x, y", "line\nbreak", "long " * 30)
)


def cut_up(whole: str, cuts: Sequence[int]) -> list[str]:
    places = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(places)]


def attempt(work: Callable[[], Any]) -> Any:
    """Return the result of a call, or the code of its error."""
    try:
        return work()
    except ObjectError as error:
        return error.code


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Draw a text, sometimes one that is cut short or has something inserted."""
    text = draw(texts)
    at = draw(st.integers(0, len(text)))
    return draw(
        st.sampled_from((text, text, text, text[:at], text[:at] + draw(st.sampled_from('",<>{}[]:&')) + text[at:]))
    )


def make_csv(rows: list[list[str]], delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue()


TABLES = st.builds(make_csv, st.lists(st.lists(WORDS, max_size=4), max_size=12), st.sampled_from(",;\t|"))


@settings(max_examples=400, deadline=None)
@given(damaged(TABLES), CUTS)
def test_tables(text: str, cuts: list[int]) -> None:
    """Also cells with line breaks and quotes that nothing closes."""
    assert "".join(render_csv(cut_up(text, cuts))) == read_csv(text).text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(("a", "b.c", "title", "")), inner, max_size=4)
    ),
    max_leaves=25,
)
DOCUMENTS = st.builds(lambda value, indent: json.dumps(value, indent=indent), VALUES, st.sampled_from((None, 2)))
GAPS = st.sampled_from(("", "\n", " ", ",\n", " // a note\n", "/* a\nnote */", "/", "*/"))
SEQUENCES = st.lists(st.tuples(DOCUMENTS, GAPS), min_size=1, max_size=6).map(
    lambda parts: "".join(itertools.chain.from_iterable(parts))
)
RELAXED = st.builds(
    lambda document, gap, comma: document.replace(",", gap + ",", 3).replace("}", comma + gap + "}", 2),
    DOCUMENTS,
    GAPS,
    st.sampled_from(("", ",")),
)


@pytest.fixture(scope="module", params=[1, 5, 40, 10_000])
def item_chars(request: pytest.FixtureRequest) -> Iterator[int]:
    """From items that are all taken apart to items that are all decoded at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_format, "ITEM_CHARS", request.param)
        yield request.param


@settings(max_examples=400, deadline=None)
@given(text=damaged(DOCUMENTS | SEQUENCES | RELAXED), cuts=CUTS)
def test_json(item_chars: int, text: str, cuts: list[int]) -> None:
    """Also items that are longer than what is decoded at once, and documents with errors."""
    assert item_chars
    for kind in (Kind.JSON, Kind.JSONL):
        in_pieces = attempt(lambda kind=kind: read_pieces(kind, lambda: cut_up(text, cuts)))
        assert in_pieces == attempt(lambda kind=kind: read_pieces(kind, lambda: [text]))


class Raw(str):
    """Text as it stands in a document."""

    __slots__ = ()


RAW = st.sampled_from(
    (
        "&",
        " & ",
        "&nbsp;",
        "&mine;",
        "&#0;",
        "&#65;",
        "< ",
        "<![CDATA[a & b]] > ]]>",
        "<![CDATA[<p>x</p>",
        "]]>",
        "&amp;lt;",
    )
).map(Raw)


def make_xml(element: Any) -> str:
    name, attributes, children = element
    inside = "".join(
        child if isinstance(child, Raw) else escape(child) if isinstance(child, str) else make_xml(child)
        for child in children
    )
    return f"<{name}{''.join(f' {key}={quoteattr(value)}' for key, value in attributes.items())}>{inside}</{name}>"


NAMES = st.sampled_from(("a", "b", "title", "x:c", "rss", "description"))
ATTRIBUTES = st.dictionaries(st.sampled_from(("id", "xml:lang", "n")), WORDS, max_size=2)
ELEMENTS = st.recursive(
    st.tuples(NAMES, ATTRIBUTES, st.lists(WORDS | st.sampled_from(("\n  ", "")), max_size=2)),
    lambda inner: (
        st.tuples(NAMES, ATTRIBUTES, st.lists(inner | st.just("\n") | WORDS | RAW, max_size=6))
        | st.tuples(NAMES, ATTRIBUTES, st.lists(inner, max_size=6))
    ),
    max_leaves=20,
)
XML = st.builds(make_xml, ELEMENTS)


@settings(max_examples=800, deadline=None)
@given(damaged(XML), CUTS, st.sampled_from((0, 20, 200, 10_000)))
def test_xml(text: str, cuts: list[int], held_chars: int) -> None:
    """Where an element has own text behind many lines, the whole document is needed; nothing else differs."""
    try:
        streamed = attempt(lambda: read_pieces(Kind.XML, lambda: cut_up(text, cuts), held_chars=held_chars))
    except NeedsWholeTextError:
        return
    assert streamed == attempt(lambda: read_pieces(Kind.XML, lambda: [text]))


@pytest.mark.parametrize(
    ("read", "start", "piece", "end"),
    [
        (render_csv, "name,city\n", "Ada,London\n" * 200, ""),
        (JsonText, '[{"a": 1}', ', {"name": "Ada", "at": [1, {"city": "London"}]}' * 100, "]"),
        (JsonText, '{"title": "T", "rows": [{}', ', {"name": "Ada"}' * 100, "]}"),
        (JsonText, '{"data": {"rows": [{}', ', {"name": "Ada"}' * 100, "]}}"),
        (
            partial(XmlText, held_chars=50_000),
            "<root><rows>",
            "<row id='1'><name>Ada <b>L</b></name></row>\n" * 100,
            "</rows></root>",
        ),
    ],
)
def test_little_is_held(
    read: Callable[[Iterable[str]], Iterable[str]], start: str, piece: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long document, at most a little more than the limit has been read and not been given yet."""
    monkeypatch.setattr(json_format, "ITEM_CHARS", 50_000)
    read_chars = given_chars = 0

    def source() -> Iterator[str]:
        nonlocal read_chars
        for part in itertools.chain([start], itertools.repeat(piece, 1_000), [end]):
            read_chars += len(part)
            yield part

    known = []
    for text in read(source()):
        given_chars += len(text)
        known.append((read_chars, given_chars))
    held = [read - given * read_chars // given_chars for read, given in known]
    assert max(held) < 300_000 < read_chars // 3
