"""XML to text: one line per element with text, including the element's name; mixed content stays running text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from html.entities import html5
from xml.parsers import expat
from xml.sax.saxutils import escape

from ingestion_engine.domain.records import ReadWarning
from ingestion_engine.pipeline.parsing.formats.html import read_html
from ingestion_engine.pipeline.parsing.pieces import (
    NeedsWholeTextError,
    OtherFormatError,
    TextInPieces,
    drop_first_blanks,
    join_lines,
    take_head,
)
from ingestion_engine.pipeline.parsing.unpack import corrupt

_DECLARATION = re.compile(r"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def find_encoding(body: bytes) -> str | None:
    """Return the encoding of the XML declaration, if any; the declaration itself must be ASCII."""
    found = _DECLARATION.match(body[:512].decode("latin-1"))
    return found.group(1) if found else None


_INLINE_CHARS = 4096
"""An element without own text but with more text than this inside it is not part of a sentence."""

_MOST_NESTING = 1_000
"""Elements inside each other, four times as many as libxml2 accepts by default: every one joins the text inside it."""

HELD_CHARS = 1024 * 1024
"""Characters of lines inside an open element, in a document in pieces, from which it counts as one without own text."""


@dataclass(slots=True)
class _Element:
    """An open element and its content so far, in order, in both forms: the end of the element decides between them."""

    name: str
    attributes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list, init=False)
    inline: list[str] = field(default_factory=list, init=False)
    """Running text in parts, with one blank between words and none at the ends."""
    is_word_ended: bool = field(default=False, init=False)
    """True when a blank follows the running text, if anything does."""
    inner_attributes: list[str] = field(default_factory=list, init=False)
    large: list[str] = field(default_factory=list, init=False)
    """Lines of children too large for running text; they follow this element's own text, if any."""
    inline_chars: int = field(default=0, init=False)
    line_chars: int = field(default=0, init=False)
    has_text: bool = field(default=False, init=False)

    def add_inline(self, text: str, *, apart: bool = False) -> None:
        """Add running text without blanks at its ends, as a word of its own if ``apart``."""
        if text:
            if self.inline and (apart or self.is_word_ended):
                self.inline.append(" ")
            self.inline.append(text)
            self.is_word_ended = apart
        elif apart:
            self.is_word_ended = True

    def read_html(self) -> None:
        """Replace HTML in the text by its words."""
        text = "".join(self.inline)
        if _HTML.search(text):
            self.inline = [" ".join(read_html(text).text.split())]
            self.has_text = bool(self.inline[0])


_FEEDS = frozenset({"rss", "feed", "rdf"})
_WITH_HTML = frozenset({"description", "encoded", "content", "summary", "subtitle", "title", "tagline", "info"})
_HTML = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]{0,15}[\s/>]")
_NO_TEXT = frozenset({"style", "script"})


class XmlText(TextInPieces):
    """A document's texts and attribute values in order, with the first element named ``title``.

    An element with only text becomes ``name: text``, an attribute ``name.attribute: value``, and an element with both
    text and elements one line of running text. HTML inside the entries of a feed is read once. External entities are
    never fetched ("part_unreadable"); expat limits the expansion of internal ones.

    The lines of an element's children are its text only if it has no text of its own, which its end shows. Lines of
    more than ``held_chars`` are given before, and own text behind them raises NeedsWholeTextError; None waits for the
    end.

    Raises, while it is iterated:
        OtherFormatError: the document is not well-formed.
        ObjectError: ``corrupt_document`` when it is cut short, nested too deeply, or its entities expand without limit.

    Cost: about 1 s per 15 MB; memory of a few pieces and of the elements with own text, each with all elements in it,
    and of about eight times the text when it is in one piece.
    """

    def __init__(self, pieces: Iterable[str], *, held_chars: int | None) -> None:
        super().__init__(pieces)
        self._reader = _Reader(held_chars)

    def __iter__(self) -> Iterator[str]:
        return join_lines(self._lines())

    def _lines(self) -> Iterator[str]:
        reader = self._reader
        parser = expat.ParserCreate("utf-8")  # the text is already decoded, so the declaration does not apply
        parser.buffer_text = True
        parser.StartElementHandler = reader.start
        parser.EndElementHandler = reader.end
        parser.CharacterDataHandler = reader.text
        parser.ExternalEntityRefHandler = reader.skip_entity
        try:
            # expat accepts nothing before the declaration
            for piece in _repair_references(drop_first_blanks(self._pieces)):
                parser.Parse(piece.encode("utf-8", "replace"), False)
                yield from reader.take_lines()
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            if error.code in _CUT or "limit on input amplification" in str(error):
                raise corrupt("XML document", str(error)) from error
            raise OtherFormatError(str(error)) from error
        self.title = reader.title
        self.warnings = reader.warnings
        yield from reader.take_lines()


_CUT = frozenset({3, 5, 6, 20})
"""Codes of expat for a document that ends too early: no element found, unclosed token, partial character, unclosed
CDATA section."""

_HEAD_CHARS = 64 * 1024
"""Characters at the beginning in which a document declares its own entities."""
_ENTITY = re.compile(r"<!ENTITY\s++([^\s%][^\s]*+)")
_REFERENCE = re.compile(
    r"&(?!(?:lt|gt|amp|quot|apos);)(?:(#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6}|[A-Za-z_:][A-Za-z0-9_:.-]{0,63});)?+"
    r"|<(?:!\[CDATA\[|(?![A-Za-z_:/!?\x80-\U0010ffff]))"
)
"""Where a document may have to be repaired, and the beginning of a CDATA section."""
_CDATA_END = "]]>"
_MOST_AHEAD = 80
"""Characters behind a ``&`` or ``<`` that show what it is."""


def _repair_references(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a document whose ``&`` and ``<`` are what expat expects.

    Entities that no declaration in the document defines are those of HTML, or else stay as written: DTDs are not
    fetched, and expat would leave such entities out without a word. A ``&`` or ``<`` alone is a character.
    """
    head, pieces = take_head(pieces, _HEAD_CHARS)
    declared = frozenset(_ENTITY.findall(head))
    inside = False
    held = ""
    for piece in itertools.chain(pieces, [None]):
        text = held + (piece or "")
        safe = len(text) if piece is None else max(0, len(text) - _MOST_AHEAD)
        parts: list[str] = []
        at = 0
        while at < safe:
            if inside:
                end = text.find(_CDATA_END, at)
                inside = end < 0
                end = safe if inside else end + len(_CDATA_END)
                parts.append(text[at:end])
            else:
                found = _REFERENCE.search(text, at)
                end = max(at, safe) if found is None or found.start() >= safe else found.end()
                if found is None or found.start() >= safe:
                    parts.append(text[at:end])
                else:
                    parts += (text[at : found.start()], _repair(found, declared))
                    inside = found.group().endswith("[CDATA[")
            at = end
        held = text[at:]
        yield "".join(parts)


def _repair(found: re.Match[str], declared: Collection[str]) -> str:
    written, name = found.group(), found[1]
    if written.startswith("<"):
        return "&lt;" if written == "<" else written
    if name is None:
        return "&amp;"
    if name.startswith("#"):
        code = int(f"0{name[1:]}", 0) if name.startswith("#x") else int(name[1:])
        return (
            written
            if code in (9, 10, 13) or 32 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0x10000 <= code <= 0x10FFFF
            else ""
        )
    if name in declared:
        return written
    known = html5.get(f"{name};")
    return f"&amp;{name};" if known is None else escape(known)


def _join(first: list[str], second: list[str]) -> list[str]:
    """Return both lists as one; neither may be used again."""
    if not first:
        return second
    first += second
    return first


class _Reader:
    def __init__(self, held_chars: int | None) -> None:
        self.title: str | None = None
        self._lines: list[str] = []
        self._open: list[_Element] = [_Element("")]
        self._held_chars = held_chars
        self._skipped: list[str] = []
        self._root = ""
        self._hidden = 0
        """Open elements of a picture that hold its style or program."""
        self._given = 1
        """The number of outermost open elements whose lines are given as they come."""

    def take_lines(self) -> list[str]:
        """Return the lines known so far, each once."""
        lines, self._lines = self._lines, []
        return lines

    @property
    def warnings(self) -> tuple[ReadWarning, ...]:
        """What was left out."""
        first = f"The external entity {self._skipped[0]} is not read." if self._skipped else ""
        return (ReadWarning("part_unreadable", len(self._skipped), first),) if self._skipped else ()

    def skip_entity(self, context: str | None, _base: str | None, system: str | None, public: str | None) -> int:
        """Note an external entity that the text refers to."""
        self._skipped.append(system or public or context or "")
        return 1

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > _MOST_NESTING:
            raise corrupt("XML document", "it is nested too deeply")
        local = name.rpartition(":")[2]
        self._root = self._root or local.lower()
        self._hidden += self._root == "svg" and local in _NO_TEXT
        kept = [
            f"{local}.{key.rpartition(':')[2]}: {value}"
            for key, value in attributes.items()
            if value.strip() and not key.startswith(("xmlns", "xsi:", "xml:"))
        ]
        self._open.append(_Element(local, attributes=kept))

    def text(self, data: str) -> None:
        element = self._open[-1]
        if self._hidden:
            return
        if len(self._open) <= self._given:
            if not data.isspace():
                raise NeedsWholeTextError
            return
        words = data.split()
        if data and (not words or data[0].isspace()):
            element.is_word_ended = True
        element.add_inline(" ".join(words))
        if words:
            element.is_word_ended = data[-1].isspace()
            element.has_text = True

    def end(self, _name: str) -> None:
        element = self._open.pop()
        self._hidden -= self._root == "svg" and element.name in _NO_TEXT
        if self._root in _FEEDS and element.name.lower() in _WITH_HTML and element.has_text:
            element.read_html()
        if len(self._open) < self._given:
            self._given = len(self._open)
            return
        parent = self._open[-1]
        large = not element.has_text and element.inline_chars > _INLINE_CHARS
        inline = "" if large else "".join(element.inline)
        if element.has_text:
            lines = [*element.attributes, *element.inner_attributes, f"{element.name}: {inline}", *element.large]
        else:
            lines = element.attributes + element.lines if element.attributes else element.lines
        line_chars = element.line_chars if lines is element.lines else sum(map(len, lines))
        if self.title is None and element.name.lower() == "title" and element.has_text:
            self.title = inline
        if len(self._open) == self._given:
            self._lines += lines
            return
        parent.lines = _join(parent.lines, lines)
        parent.line_chars += line_chars
        if self._held_chars is not None and parent.line_chars > self._held_chars and self._give():
            return
        if large:
            parent.large = [*parent.large, *lines]
            parent.inline_chars += _INLINE_CHARS
            return
        parent.add_inline(inline, apart=not element.has_text)
        parent.inline_chars += len(inline)
        parent.large = _join(parent.large, element.large)
        inner = _join(element.attributes, element.inner_attributes)
        parent.inner_attributes = _join(parent.inner_attributes, inner)

    def _give(self) -> bool:
        """Give the lines of the open elements, from the outermost on up to one with text; return whether of all.

        The innermost one has many lines, so those around it are probably no sentences.
        """
        for element in self._open[self._given :]:
            if element.has_text:
                return False
            self._lines += element.attributes + element.lines
            self._given += 1
        return True
