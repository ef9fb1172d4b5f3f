"""HTML to text with Markdown headings, lists, tables and code blocks, so that chunks end where the page's blocks end.

No visible text is omitted: navigation, forms, asides and footers are kept, and so is what a page hides until a click
(``hidden``, ``display: none``). Tags are found as browsers find them (WHATWG, 13.2.5), in time in proportion to the
page whatever it contains; a tree is not built. What begins and never ends, in a damaged page, is read as text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText

_META = re.compile(rb"<meta[^>]([^>]++)", re.IGNORECASE)
_CHARSET = re.compile(rb"""charset(?=\s*+=\s*+["']?+\s*+([A-Za-z0-9_.:-]++))""", re.IGNORECASE)
"""The name is only looked at, so that another ``charset`` in it is found too."""

_HIDDEN = frozenset({"template", "annotation", "annotation-xml"})
"""Elements that no browser shows; the annotation of a formula repeats it in another notation."""
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "button", "caption", "center", "dd", "details", "dialog",
    "dir", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "frameset", "head", "header", "hgroup", "hr", "html",
    "iframe", "legend", "li", "listing",
    "main", "marquee", "menu", "nav", "noframes",
    "noscript", "ol", "optgroup", "option", "p", "pre", "search", "section", "select", "summary", "svg", "table",
    "tbody", "textarea", "tfoot",
    "thead", "title", "tr", "ul", "xmp",
})  # fmt: skip
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_LISTS = frozenset({"ul", "ol", "menu", "dir"})
_VERBATIM = frozenset({"pre", "listing", "xmp"})
_TIGHT = frozenset({"li", "tr", "option", "dd"})
"""Blocks that follow the previous one without an empty line between."""
_SHOWN_INPUTS = frozenset({"", "text", "search", "email", "url", "tel", "number", "date", "submit", "button", "reset"})
"""Types of form fields whose value a browser shows."""

_SPACES = re.compile(r"[ \t\n\r\f]+")
_SEVERAL_BLANKS = re.compile(r" {2,}")
_FENCES = re.compile(r"`{3,}+")


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
    return _read(text, _MOST_FRAMES)


_MOST_FRAMES = 3
"""Depth of documents written into attributes of documents (``srcdoc``)."""


def _read(text: str, frames: int) -> ParsedText:
    reader = _Reader(frames)
    for token in _tokens(text):
        reader.take(token)
    return reader.finish()


_TAG = re.compile(
    r"<(/?)([A-Za-z][^\s/>]*+)"
    r"""((?:[\s/]++|[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+))?+)*+)(>?)"""
)
"""A tag; the last group is empty for one that never ends."""
_ATTRIBUTE = re.compile(r"""([^\s/>=][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+)))?+""")
_NAME = re.compile(r"</?[A-Za-z]")
_COMMENT_END = re.compile(r"--!?>")
_RAW = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "xmp", "iframe", "noembed", "title", "textarea")
}
"""Elements whose content has no tags, with their end."""
_NEVER_SHOWN = frozenset({"script", "style", "iframe", "noembed"})

_MOST_UNENDED = 50
"""Tags and comments that begin and never end; for each, the rest of the page is searched for the end."""


@dataclass(slots=True)
class _Token:
    """A piece of text, or a tag with its attributes as written."""

    text: str = ""
    tag: str = ""
    is_end: bool = False
    attributes: str = ""
    is_verbatim: bool = False
    """True for text in which ``&`` is no entity."""

    def get(self, name: str) -> str:
        """Return the value of an attribute; empty if the tag has none."""
        for found in _ATTRIBUTE.finditer(self.attributes):
            if found[1].lower() == name:
                return html.unescape(found[2] or found[3] or found[4] or "")
        return ""


def _tokens(page: str) -> Iterator[_Token]:
    """Yield texts and tags of a page in order.

    Cost: linear; the search for an end that does not exist is made ``_MOST_UNENDED`` times at most.
    """
    at = 0
    unended = 0
    last_end = page.rfind(">")
    while (start := page.find("<", at)) >= 0 and start < last_end and unended < _MOST_UNENDED:
        if start > at:
            yield _Token(page[at:start])
        tag = _TAG.match(page, start)
        if tag is None or not tag[4]:
            end, text = _find_other_end(page, start)
            if end < 0:
                unended += 1
                end = start + 1
                text = "<"
            if text:
                yield _Token(text, is_verbatim=True)
            at = end
            continue
        at = tag.end()
        name = tag[2].lower()
        yield _Token(tag=name, is_end=bool(tag[1]), attributes=tag[3])
        if tag[1]:
            continue
        if name == "plaintext":
            yield _Token(page[at:], is_verbatim=True)
            return
        if name in _RAW and not _is_closed(tag[3]):
            closing = _RAW[name].search(page, at) if unended < _MOST_UNENDED else None
            if closing is None:
                unended += 1
                if name in ("script", "style"):
                    return
                continue
            if name not in _NEVER_SHOWN:
                yield _Token(page[at : closing.start()], is_verbatim=name == "xmp")
            at = closing.start()
    yield _Token(page[at:])


def _is_closed(attributes: str) -> bool:
    """Return whether a tag ends with a slash of its own, as in XHTML; not one that belongs to an unquoted value."""
    return attributes.endswith("/") and (len(attributes) == 1 or attributes[-2] in " \t\n\r\f\"'")


def _find_other_end(page: str, start: int) -> tuple[int, str]:
    """Return the end of what begins with ``<`` and is no tag, -1 if it has none, and its text."""
    if page.startswith("<!--", start):
        if page.startswith((">", "->"), start + 4):
            return page.index(">", start) + 1, ""
        found = _COMMENT_END.search(page, start + 4)
        return (found.end() if found else -1), ""
    if page.startswith("<![CDATA[", start):
        end = page.find("]]>", start)
        return (end + 3, page[start + 9 : end]) if end >= 0 else (-1, "")
    if page.startswith(("<?php", "<?="), start):
        end = page.find("?>", start)
        return (end + 2 if end >= 0 else -1), ""
    if _NAME.match(page, start):  # a tag
        return -1, ""
    if page.startswith(("</", "<!", "<?"), start):
        return page.index(">", start) + 1, ""
    return start + 1, "<"


_CLOSED = frozenset({"title", "textarea", "svg"}) | _HIDDEN
"""Elements that a slash at the end of their tag closes: XHTML writes some of them so."""

_MOST_INDENTED = 50
"""Levels of lists that are indented: each level of more would make every line inside it longer."""

_MOST_TABLES = 20
"""Tables inside each other; deeper ones are read as running blocks: each level copies the text inside it."""

_MOST_COLUMNS = 30
"""Columns that a cell may extend over; each is an empty cell behind it."""

_CELL_CHARS = 2000
"""Characters of the longest cell in a row that is one line; a longer one is a part of the page in columns."""


@dataclass(slots=True)
class _Cell:
    """A cell that is being read, or has been: its blocks and whether it may stand in a line with others."""

    is_header: bool
    columns: int = 1
    blocks: list[str] = field(default_factory=list)
    is_simple: bool = True

    def line(self) -> str:
        """Return the cell's text on one line."""
        return " ".join("".join(self.blocks).split())


@dataclass(slots=True)
class _Table:
    """A table that is being read."""

    lists: int
    """Lists that are open around it."""
    rows: list[tuple[bool, list[_Cell]]] = field(default_factory=list)
    """Rows with whether they are in the table's head."""
    caption: list[str] = field(default_factory=list)
    in_head: bool = False
    is_open: bool = False
    """True within a cell."""


class _Reader:
    """Collects blocks; a block-level tag starts or ends a block."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._title: str | None = None
        self._first_heading: str | None = None
        self._line: list[str] = []
        self._block = ""
        self._hidden = 0
        self._verbatim = 0
        self._lists = 0
        self._svgs = 0
        self._in_title = False
        self._is_link_over = False
        """True behind a link, until text follows."""
        self._outs: list[list[str]] = [[]]
        """What has been written: of the page, and of each open table's cell."""
        self._tables: list[_Table] = []
        self._is_apart = False
        """True behind a table, which an empty line follows."""
        self._skipped_tables = 0
        """Open tables deeper than ``_MOST_TABLES``."""

    def finish(self) -> ParsedText:
        """Return the text of what was taken."""
        self._end_block("")
        while self._tables:
            self._end_table()
        return ParsedText("".join(self._outs[0]), TextFormat.MARKDOWN, title=self._title or self._first_heading)

    def take(self, token: _Token) -> None:
        """Read the next text or tag."""
        if not token.tag:
            if not self._hidden:
                text = token.text if token.is_verbatim else html.unescape(token.text)
                self._is_link_over = False
                self._line.append(text if self._verbatim else _SPACES.sub(" ", text))
        elif token.is_end:
            self._end_tag(token.tag)
        else:
            self._start_tag(token)
            if _is_closed(token.attributes) and token.tag in _CLOSED:
                self._end_tag(token.tag)

    def _start_tag(self, token: _Token) -> None:
        tag = token.tag
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag in ("table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th"):
            self._start_table_part(token)
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._svgs += tag == "svg"
            if tag == "title" and self._svgs:
                self._line.append(" ")
                return
            self._break_block(tag)
            self._lists += tag in _LISTS
            self._verbatim += tag in _VERBATIM
            self._in_title = self._in_title or (tag == "title" and self._title is None)
            if tag == "optgroup":
                self._line.append(token.get("label"))
                self._end_block("")
            if tag == "iframe" and self._frames and (inner := token.get("srcdoc")):
                self._write("", _read(inner, self._frames - 1).text)
        elif tag == "br":
            self._line.append("\n")
        elif tag == "a" and self._is_link_over:  # pages keep links apart by their style
            self._line.append(" ")
        elif tag in ("img", "input"):
            self._add_replaced(token)

    def _add_replaced(self, token: _Token) -> None:
        """Add what stands for an image or a form's field: words of their own."""
        kind = token.get("type").lower()
        words = token.get("alt" if token.tag == "img" or kind == "image" else "value")
        if token.tag == "input" and kind != "image" and kind not in _SHOWN_INPUTS:
            return
        if words.strip() and not self._hidden:
            self._line.append(f" {_SPACES.sub(' ', words)} ")

    def _end_tag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in ("table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th"):
            self._end_table_part(tag)
        elif tag == "title" and self._svgs:
            self._line.append(" ")
        elif tag == "title" and self._in_title:
            self._title = " ".join("".join(self._line).split()) or None
            self._line = []
            self._in_title = False
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._break_block("", tag)
            self._svgs = max(0, self._svgs - (tag == "svg"))
            if tag in _LISTS:
                self._lists = max(0, self._lists - 1)
            if tag in _VERBATIM:
                self._verbatim = max(0, self._verbatim - 1)
        elif tag == "br":
            self._line.append("\n")
        elif tag == "a":
            self._is_link_over = True

    # Tables

    def _start_table_part(self, token: _Token) -> None:
        tag = token.tag
        self._end_block(tag)
        if tag == "table":
            if len(self._tables) >= _MOST_TABLES:
                self._skipped_tables += 1
                return
            self._tables.append(_Table(self._lists))
            self._outs.append([])  # what is in the table and in no cell
            return
        if not self._tables or self._skipped_tables:
            return
        table = self._tables[-1]
        self._end_cell()
        if tag == "thead":
            table.in_head = True
        elif tag in ("tbody", "tfoot"):
            table.in_head = False
        elif tag == "tr":
            table.rows.append((table.in_head, []))
        elif tag in ("td", "th"):
            if not table.rows:
                table.rows.append((table.in_head, []))
            span = token.get("colspan") if "colspan" in token.attributes.lower() else ""
            columns = int(span) if span.isascii() and span.isdigit() and len(span) < 3 else 1
            cell = _Cell(tag == "th", max(1, min(columns, _MOST_COLUMNS)))
            table.rows[-1][1].append(cell)
            table.is_open = True
            self._outs.append(cell.blocks)

    def _end_table_part(self, tag: str) -> None:
        self._end_block("")
        if self._skipped_tables:
            self._skipped_tables -= tag == "table"
        elif not self._tables:
            return
        elif tag == "table":
            self._end_table()
        elif tag != "caption":
            self._end_cell()
            if tag == "thead":
                self._tables[-1].in_head = False

    def _end_cell(self) -> None:
        if self._tables[-1].is_open:
            self._tables[-1].is_open = False
            self._outs.pop()

    def _end_table(self) -> None:
        self._end_cell()
        table = self._tables.pop()
        outside = "".join(self._outs.pop())
        self._lists = table.lists
        self._write_table([outside] if outside.strip() else [])
        rows = [(in_head, cells) for in_head, cells in table.rows if any(cell.blocks for cell in cells)]
        if not rows:
            return
        is_plain = all(_is_line(cells) for _, cells in rows)
        in_head, header = rows[0]
        width = sum(cell.columns for cell in header)
        if is_plain and len(rows) > 1 and width > 1 and (in_head or all(cell.is_header for cell in header)):
            lines = [_as_row(cells) for _, cells in rows]
            self._write_table([lines[0], " | ".join(["---"] * width), *lines[1:]])
            return
        lines = []
        for _, cells in rows:
            if _is_line(cells):
                lines.append(" | ".join(line for cell in cells if (line := cell.line())))
                continue
            self._write_table(lines)
            lines = []
            for cell in cells:
                self._write_table(cell.blocks, "")
        self._write_table(lines)

    def _write_table(self, parts: list[str], separator: str = "\n") -> None:
        """Write rows or the content of a cell as a block of its own."""
        if parts:
            self._write("", separator.join(parts))
            self._is_apart = True
            self._mark_complex()

    def _mark_complex(self) -> None:
        """Note that the cell around what was written is no line."""
        for table in self._tables[-1:]:
            if table.is_open:
                table.rows[-1][1][-1].is_simple = False

    # Blocks

    def _break_block(self, following: str, ended: str = "") -> None:
        """End a block, or only the line where the text is verbatim."""
        if not self._verbatim or ended in _VERBATIM or following in _VERBATIM:
            self._end_block(following)
        elif self._line and not self._line[-1].endswith("\n"):
            self._line.append("\n")

    def _end_block(self, following: str) -> None:
        """Write the collected text as one block; ``following`` is the tag of the next text."""
        text = "".join(self._line)
        self._line = []
        block = self._block
        if not (following in ("p", "div") and not text.strip() and (block == "li" or block in _HEADINGS)):
            self._block = following
        if self._verbatim:
            self._write_verbatim(text)
            return
        text = "\n".join(" ".join(line.split(" ")).strip() for line in text.split("\n")).strip()
        text = _SEVERAL_BLANKS.sub(" ", text)
        if not text:
            return
        if block in _HEADINGS:
            text = " ".join(text.split())
            if block == "h1":
                self._first_heading = self._first_heading or text
            text = _HEADINGS[block] + text
            self._mark_complex()
        elif block == "li":
            text = "  " * max(0, min(self._lists, _MOST_INDENTED) - 1) + "- " + text
        self._write(block, text)

    def _write_verbatim(self, text: str) -> None:
        if text.strip():
            marks = "`" * max(3, max(map(len, _FENCES.findall(text)), default=0) + 1)
            self._write("pre", f"{marks}\n{text.strip(chr(10))}\n{marks}")
            if "\n" in text.strip():
                self._mark_complex()

    def _write(self, block: str, text: str) -> None:
        out = self._outs[-1]
        if out:
            out.append("\n" if block in _TIGHT and not self._is_apart else "\n\n")
        out.append(text)
        self._is_apart = False


def _is_line(cells: list[_Cell]) -> bool:
    return all(cell.is_simple and sum(map(len, cell.blocks)) <= _CELL_CHARS for cell in cells)


def _as_row(cells: list[_Cell]) -> str:
    """Return the row of a Markdown table; a cell over several columns is followed by empty ones."""
    texts = []
    for cell in cells:
        texts += [cell.line().replace("|", "\\|"), *[""] * (cell.columns - 1)]
    return " | ".join(texts if len(texts) > 1 else [*texts, ""])
