"""What replaced expressions that backtrack finds what they found, on texts short enough for them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_devstack.weaviate.filters import match_like
from ingestion_engine.driver.plan.globs import Glob
from ingestion_engine.pipeline.chunking import chunk
from ingestion_engine.pipeline.parsing import detect
from ingestion_engine.pipeline.parsing.formats import html, rtf


def pieces(*choices: str, most: int = 9) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(choices), max_size=most).map("".join)


HTML_START = re.compile(
    r"\s*(?:<!--.*?-->\s*)*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)


@settings(max_examples=1500, deadline=None)
@given(pieces(
    " ", "\n", "<!--", "-->", "--", ">", "<", "<?xml", "<?xml version='1'?>", "<HTML", "<html>", "<!doctype ", "html",
    "<head", "<body>", "a", "<!-- a -->", "<a>",
))  # fmt: skip
def test_beginning_of_a_page(head: str) -> None:
    """Comments and an XML declaration before the first tag, in any order and number."""
    assert detect._begins_html(head) == (HTML_START.match(head) is not None)


HEADINGS = re.compile(r"(?:\s* {0,3}#{1,6} [^\n]*)+\s*")


@settings(max_examples=1500, deadline=None)
@given(pieces("#", "# ", "######", " ", "   ", "\n", "\t", "a", "#a", "\u2028", "\v"))
def test_lines_of_headings(text: str) -> None:
    """A passage of headings and blank lines only."""
    assert (chunk._HEADINGS.fullmatch(text) is None) == (HEADINGS.fullmatch(text) is None)


@settings(max_examples=1500, deadline=None)
@given(pieces(" | ", " |", "| ", " ", "|", "\n", "a", "  |", "\x85"))
def test_cell_marks_of_rich_text(text: str) -> None:
    """Marks at the end of lines are removed."""
    assert rtf._join([text]) == re.sub(r"(?: \| )+(?=\n|$)", "", text).strip()


CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)


@settings(max_examples=1500, deadline=None)
@given(pieces("<meta", "<META ", ">", "charset", "=", "charset=", " ", "'", '"', "utf-8", "x", "<", "\n"))
def test_encoding_of_a_page(text: str) -> None:
    """The last encoding in the first tag that has one."""
    found = CHARSET.search(text.encode())
    assert html.find_charset(text.encode()) == (found[1].decode() if found else None)


def translate(glob: str) -> Iterator[str]:
    """Yield the pieces of a regular expression for a glob."""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", glob, re.DOTALL):
        wildcard = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token)
        is_class = len(token) > 2 and token[0] == "[" and token != "[!]"
        if wildcard or not is_class:
            yield wildcard or re.escape(token)
            continue
        body = "".join(f"\\{char}" if char in "\\^[&~|" else char for char in token[1:-1].removeprefix("!"))
        expression = f"(?!/)[{'^' if token[1] == '!' else ''}{body}]"
        try:
            re.compile(expression)
        except re.error:
            expression = "(?!)"
        yield expression


GLOBS = pieces(
    "a", "b", "/", "*", "**", "**/", "?", "[ab]", "[!a]", "[a-c]", "[", "]", "[]", "!", "-", "^", "é", "[z-a]"
)
KEYS = pieces("a", "b", "/", "c", "!", "-", "]", "^", "\n", "é", "[", most=12)


@settings(max_examples=4000, deadline=None)
@given(GLOBS, KEYS)
def test_globs(glob: str, key: str) -> None:
    """A glob matches the keys that its regular expression matches, all of which begin with its prefix."""
    expression = "".join(translate(glob))
    assert Glob(glob).matches(key) == (re.fullmatch(expression, key, re.DOTALL) is not None), expression
    assert not Glob(glob).matches(key) or key.startswith(Glob(glob).prefix)


@settings(max_examples=1000, deadline=None)
@given(pieces("a", "b", "*", "?", "\n", "."), pieces("a", "b", "\n", "."))
def test_like_of_weaviate(term: str, text: str) -> None:
    """The stand-in's wildcards do not match line feeds."""
    expression = re.escape(term).replace(r"\?", ".").replace(r"\*", ".*")
    assert match_like(term, text) == (re.fullmatch(expression, text) is not None)
