"""HTML to text with Markdown headings, lists and code blocks, so that chunks end where the page's blocks end.

No visible text is omitted: navigation, forms, asides and footers are kept. Kreuzberg 4.10 drops these, and writes
images as data URLs.
"""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText

_META = re.compile(rb"<meta[^>]([^>]++)", re.IGNORECASE)
_CHARSET = re.compile(rb"""charset(?=\s*+=\s*+["']?+\s*+([A-Za-z0-9_.:-]++))""", re.IGNORECASE)
"""The name is only looked at, so that another ``charset`` in it is found too."""

_HIDDEN = frozenset({"script", "style", "template"})
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "button", "caption", "center", "dd", "details", "dialog",
    "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "iframe", "legend", "li",
    "main", "menu", "nav",
    "noscript", "ol", "optgroup", "option", "p", "search", "section", "select", "summary", "svg", "table", "tbody",
    "textarea", "tfoot",
    "thead", "title", "tr", "ul",
})  # fmt: skip
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_TIGHT = frozenset({"li", "tr", "option", "dd"})
"""Blocks that follow the previous one without an empty line between."""

_SPACES = re.compile(r"[ \t\n\r\f]+")
_SEVERAL_BLANKS = re.compile(r" {2,}")


def find_charset(body: bytes) -> str | None:
    """Return the encoding declared in the first 4 KiB of the page, if any."""
    for tag in _META.finditer(body[:4096]):
        if names := _CHARSET.findall(tag[1]):
            return bytes(names[-1]).decode("ascii")
    return None


def read_html(text: str) -> ParsedText:
    """Return the page's text, one block per paragraph, and its title (``<title>``, or else the first ``<h1>``).

    Cost: about 1 s per 10 MB; memory of the text twice.
    """
    reader = _Reader()
    end = text.rfind(">") + 1  # behind it, nothing is a tag
    rest = text[end:]
    try:
        reader.feed(text[:end])
        reader.close()
    except _TooDamagedError as damage:
        rest = reader.rawdata[damage.at :] + rest
    if reader.cdata_elem is None:
        reader.handle_data(html.unescape(rest))
    reader.end_block("")
    return ParsedText("".join(reader.out), TextFormat.MARKDOWN, title=reader.title or reader.first_heading)


_MOST_UNENDED = 50
"""Tags, comments and declarations that begin and never end; the standard library searches the rest of the page for the
end of each. What follows them is read as text."""

_MOST_INDENTED = 50
"""Levels of lists that are indented: each level of more would make every line inside it longer."""


class _TooDamagedError(Exception):
    """Too much on the page begins and never ends; ``at`` is the place of the next such thing in the reader's data."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class _Reader(HTMLParser):
    """Collects blocks; a block-level tag starts or ends a block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.title: str | None = None
        self.first_heading: str | None = None
        self._line: list[str] = []
        self._block = ""
        self._hidden = 0
        self._pre = 0
        self._lists = 0
        self._cells = 0
        self._in_title = False
        self._unended = 0

    def parse_starttag(self, i: int) -> int:
        """Return the end of the tag at a place, -1 if it has none. Raises _TooDamagedError."""
        return self._count_unended(i, super().parse_starttag(i))

    def parse_comment(self, i: int, report: int = 1) -> int:
        """Return the end of the comment at a place, -1 if it has none. Raises _TooDamagedError."""
        return self._count_unended(i, super().parse_comment(i, bool(report)))

    def parse_html_declaration(self, i: int) -> int:
        """Return the end of the declaration at a place, -1 if it has none. Raises _TooDamagedError."""
        return self._count_unended(i, super().parse_html_declaration(i))

    def _count_unended(self, start: int, end: int) -> int:
        self._unended += end < 0
        if self._unended > _MOST_UNENDED:
            raise _TooDamagedError(start)
        return end

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag in _HEADINGS or tag in _BLOCKS:
            self.end_block(tag)
            self._lists += tag in ("ul", "ol", "menu")
            self._cells = 0
            self._in_title = self._in_title or (tag == "title" and self.title is None)
        elif tag == "pre":
            self.end_block(tag)
            self._pre += 1
        elif tag in ("td", "th"):
            if self._cells:
                self._line.append(" | ")
            self._cells += 1
        elif tag == "br":
            self._line.append("\n")
        elif tag == "img":
            self._line.append(dict(attrs).get("alt") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag == "pre":
            self.end_block("")
            self._pre = max(0, self._pre - 1)
        elif tag == "title" and self._in_title:
            self.title = " ".join("".join(self._line).split()) or None
            self._line = []
            self._in_title = False
        elif tag in _HEADINGS or tag in _BLOCKS:
            self.end_block("")
            if tag in ("ul", "ol", "menu"):
                self._lists = max(0, self._lists - 1)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._line.append(data if self._pre else _SPACES.sub(" ", data))

    def unknown_decl(self, data: str) -> None:
        """Keep the text of a CDATA section; drop every other declaration."""
        if data.startswith("CDATA["):
            self.handle_data(data[len("CDATA[") :])

    def end_block(self, following: str) -> None:
        """Write the collected text as one block; ``following`` is the tag of the next text."""
        text = "".join(self._line)
        self._line = []
        block = self._block
        if not (following in ("p", "div") and not text.strip() and (block == "li" or block in _HEADINGS)):
            self._block = following
        if self._pre:
            if text.strip():
                self._write("pre", f"```\n{text.strip(chr(10))}\n```")
            return
        text = "\n".join(" ".join(line.split(" ")).strip() for line in text.split("\n")).strip()
        text = _SEVERAL_BLANKS.sub(" ", text)
        if not text.strip(" |"):
            return
        if block in _HEADINGS:
            text = " ".join(text.split())
            if block == "h1":
                self.first_heading = self.first_heading or text
            text = _HEADINGS[block] + text
        elif block == "li":
            text = "  " * max(0, min(self._lists, _MOST_INDENTED) - 1) + "- " + text
        self._write(block, text)

    def _write(self, block: str, text: str) -> None:
        if self.out:
            self.out.append("\n" if block in _TIGHT else "\n\n")
        self.out.append(text)
