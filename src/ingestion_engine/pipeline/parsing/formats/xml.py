"""XML to text: one line per element with text, including the element's name; mixed content stays running text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.pieces import NeedsWholeTextError, TextInPieces, drop_first_blanks, join_lines
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


def read_xml(text: str) -> ParsedText:
    """Return the document's texts and attribute values in order; its title is the first element named ``title``.

    An element with only text becomes ``name: text``, an attribute ``name.attribute: value``, and an element with both
    text and elements one line of running text. External entities are never fetched; expat limits the expansion of
    internal ones.

    Raises:
        ObjectError: ``corrupt_document`` when the document is not well-formed, for example because it is cut short, or
            nested too deeply.

    Cost: about 1 s per 15 MB; memory of about eight times the text.
    """
    rendered = XmlText([text], held_chars=None)
    return ParsedText("".join(rendered), title=rendered.title)


class XmlText(TextInPieces):
    """The text of ``read_xml`` for a document in pieces, with the first element named ``title``.

    The lines of an element's children are its text only if it has no text of its own, which its end shows. Lines of
    more than ``held_chars`` are given before, and own text behind them raises NeedsWholeTextError; None waits for the
    end.

    Cost: memory of a few pieces and of the elements with own text, each with all elements in it.
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
        try:
            for piece in drop_first_blanks(self._pieces):  # expat accepts nothing before the declaration
                parser.Parse(piece.encode("utf-8", "replace"), False)
                yield from reader.take_lines()
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise corrupt("XML document", str(error)) from error
        self.title = reader.title
        yield from reader.take_lines()


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
        self._given = 1
        """The number of outermost open elements whose lines are given as they come."""

    def take_lines(self) -> list[str]:
        """Return the lines known so far, each once."""
        lines, self._lines = self._lines, []
        return lines

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > _MOST_NESTING:
            raise corrupt("XML document", "it is nested too deeply")
        local = name.rpartition(":")[2]
        kept = [
            f"{local}.{key.rpartition(':')[2]}: {value}"
            for key, value in attributes.items()
            if value.strip() and not key.startswith(("xmlns", "xsi:", "xml:"))
        ]
        self._open.append(_Element(local, attributes=kept))

    def text(self, data: str) -> None:
        element = self._open[-1]
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
