"""Small inputs that cost a reader more than their size: each takes work in proportion to it, or fails at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from email import _header_value_parser as header_parser
from email import message

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.formats import html
from ingestion_engine.pipeline.parsing.formats.html import read_html
from ingestion_engine.pipeline.parsing.formats.mail import parts
from ingestion_engine.pipeline.parsing.formats.mail.mail import read_email
from ingestion_engine.pipeline.parsing.formats.tables import read_csv
from ingestion_engine.pipeline.parsing.kinds import Kind
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.pieces import MOST_GROWTH
from ingestion_engine.pipeline.parsing.readings import read_whole
from support.line_steps import count_lines

UNENDED = [
    "<a ", '<a x="', "<a x='> ", "<!-- > ", "<![CDATA[ > ", "<!x", "</a", "<?x", '<a b=">" ', "<!doctype <", "<?php > ",
    "<title>", "<textarea>", "<iframe>",
]  # fmt: skip


class Counted:
    """A pattern that counts the characters that it searched in vain."""

    searched = 0

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def match(self, text: str, at: int) -> re.Match[str] | None:
        return self._count(self._pattern.match(text, at), len(text) - at)

    def search(self, text: str, at: int) -> re.Match[str] | None:
        return self._count(self._pattern.search(text, at), len(text) - at)

    def _count(self, found: re.Match[str] | None, chars: int) -> re.Match[str] | None:
        Counted.searched += 0 if found else chars
        return found


@pytest.mark.parametrize("unit", UNENDED)
@pytest.mark.parametrize("ending", ["", ">", "</p>"])
def test_what_never_ends_on_a_page(unit: str, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the page is searched for the end of tags and comments a limited number of times."""
    monkeypatch.setattr(Counted, "searched", 0)
    for name in ("_TAG", "_COMMENT_END"):
        monkeypatch.setattr(html, name, Counted(getattr(html, name)))
    monkeypatch.setattr(html, "_RAW", {name: Counted(pattern) for name, pattern in html._RAW.items()})
    page = "<html><p>Words. " + unit * 3_000 + ending
    assert read_html(page).text.startswith("Words.")
    assert Counted.searched <= 2 * (html._MOST_UNENDED + 2) * len(page)


def test_a_damaged_page_keeps_its_text() -> None:
    """What follows more open comments than any page has is text."""
    text = read_html("<html><p>First &amp; words" + "<!-- > " * 100 + "<p>Last &amp; words").text
    assert text.startswith("First & words")
    assert text.endswith("Last & words")


def test_lists_inside_lists() -> None:
    """Their indentation does not make a text of the square of the page."""
    page = "<html>" + "<ul><li>x" * 3_000
    assert len(read_html(page).text) < 20 * len(page)


@pytest.mark.parametrize(
    "read",
    [
        lambda: read_csv("a" * 50_000 + ",b\n" + "1,2\n" * 100_000),
        lambda: read_whole(Kind.JSON, f'{{"{"k" * 200_000}": [{{}}{", {}" * 200_000}]}}'),
        lambda: read_whole(Kind.JSONL, f'{{"{"k" * 200_000}": [1, {{}}{", {}" * 200_000}]}}'),
    ],
    ids=["csv", "json", "jsonl"],
)
def test_names_that_are_repeated_in_every_line(read: Callable[[], object]) -> None:
    """A text that would be thousands of times as long as the object is refused before it fills the memory."""
    with pytest.raises(ObjectError, match=f"more than {MOST_GROWTH} times") as caught:
        read()
    assert caught.value.code == "decompressed_too_large"


def test_elements_inside_elements() -> None:
    """XML may be nested deeper than any format is, and not without a limit."""
    assert read_whole(Kind.XML, "<a>" * 1_000 + "x" + "</a>" * 1_000)[1].text == "a: x"
    with pytest.raises(ObjectError, match="nested too deeply"):
        read_whole(Kind.XML, "<a>" * 1_001 + "x" + "</a>" * 1_001)


@pytest.mark.parametrize(
    ("name", "unit"),
    [("Subject", "word "), ("Subject", "=?utf-8?q?a?= "), ("To", "a@example.org, "), ("Content-Type", "; a=b"),
     ("Content-Disposition", "; filename=a")],
)  # fmt: skip
def test_long_headers_of_an_email(name: str, unit: str) -> None:
    """The standard library's parser of headers gets no more of a longer one, and no word of it is lost."""
    start = "text/plain" if name.startswith("Content") else "first "

    def read(units: int) -> str:
        mail = f"From: a@example.org\n{name}: {start}{unit * units}last\n\nBody words."
        return read_email(mail.encode(), lambda _content, name, _kind: ParsedText(name)).text

    def steps(units: int) -> int:
        return count_lines(lambda: read(units), header_parser, parts, message)

    units = 70_000 // len(unit)
    assert steps(4 * units) <= 4.2 * steps(units) <= 3_000_000
    assert "Body words." in read(units) or name == "Content-Disposition"
    word = "a" if unit.startswith("=?") else unit.strip()
    assert read(units).count(word) >= units or name.startswith("Content")
