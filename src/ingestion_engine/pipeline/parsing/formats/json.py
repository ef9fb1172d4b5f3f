"""JSON and JSON Lines to text: one line per value with the path of its keys, blocks between objects of a list.

Numbers stay as written, and repeated keys are all kept. ``{"name": "Ada", "at": {"city": "London"}}`` becomes
``name: Ada`` and ``at.city: London``: embedding models make little use of brackets and quotes, and every passage keeps
its keys wherever it is cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.pieces import Growth, TextInPieces, join_lines, split_lines
from ingestion_engine.pipeline.parsing.unpack import corrupt

_BLANK = re.compile(r"[ \t\n\r]*")


class _Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object with all its keys, including repeated ones."""

    __slots__ = ()


class _Literal(str):
    """A number or constant as written; rendered unchanged and never treated as a string."""

    __slots__ = ()


_DECODER = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_float=_Literal, parse_int=_Literal, parse_constant=_Literal, strict=False
)


ITEM_CHARS = 1024 * 1024
"""Characters of an item that are decoded at once, if it is an object or a list of them; larger ones are taken apart.
Decoded, an item takes about ten times its text."""

_NEAR_CHARS = 16
"""Characters before the end of a piece in which an error may only mean that the item goes on in the next one: no
literal and no escape is longer."""


def read_json(text: str) -> ParsedText:
    """Return a JSON document's values as lines.

    Raises:
        ObjectError: ``corrupt_document`` when the text is cut short, not JSON, or nested too deeply;
            ``decompressed_too_large`` when very long keys make the text out of proportion.

    Cost: about 1 s per 10 MB; memory of the text twice, and of one object in a list.
    """
    rendered = JsonText([text])
    return ParsedText("".join(rendered), title=rendered.title)


class JsonText(TextInPieces):
    """The text of ``read_json`` for a document in pieces, with the first ``title`` of the document itself.

    Cost: memory of a few pieces, of one item of ``ITEM_CHARS``, and of the longest list of scalars.
    """

    def __iter__(self) -> Iterator[str]:
        growth = Growth()
        reader = _Reader(growth.count(self._pieces))
        try:
            yield from growth.limit(join_lines(_tidy(reader.lines())))
        except json.JSONDecodeError as error:
            raise corrupt("JSON document", error.msg) from error
        except RecursionError as error:
            raise corrupt("JSON document", "it is nested too deeply") from error
        self.title = reader.title


class _TooLongError(Exception):
    """The next item is longer than what is decoded at once."""


class _Reader:
    """Renders a document item by item: one object of a large list in memory at a time, and no long call in C.

    It splits the outermost value, the lists directly below it, and whatever is too long; Python's own decoder reads
    every item.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self.title: str | None = None
        self._pieces = iter(pieces)
        self._text = ""
        """What has been read; from ``_at`` on, it has not been decoded yet."""
        self._at = 0
        self._next = next(self._pieces, None)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the whole document. Raises json.JSONDecodeError, RecursionError."""
        first = self._peek()
        if first == "{":
            yield from self._object("", is_document=True)
        elif first == "[":
            yield from self._outer_list("")
        else:
            value = self._value()
            if value not in ("", None):
                yield _scalar(value, "")
        if self._peek():
            raise json.JSONDecodeError("Extra data", self._text, self._at)

    def _object(self, path: str, *, is_document: bool = False) -> Iterator[str]:
        for _ in self._items("{", "}"):
            if self._peek() != '"':
                raise json.JSONDecodeError("Expecting property name", self._text, self._at)
            name = str(self._value())
            key = f"{path}.{name}" if path else name
            self._take(":")
            first = self._peek()
            if is_document and first == "[":
                yield from self._outer_list(key)
            elif is_document and first == '"' and key == "title":
                value = self._value()
                self.title = self.title or value
                yield from _render(value, key)
            else:
                yield from self._item(key)

    def _outer_list(self, path: str) -> Iterator[str]:
        if not path and self._peek_inside() == "]":
            self._value()  # a document without anything in it has no text
        else:
            yield from self._list(path)

    def _list(self, path: str) -> Iterator[str]:
        if self._peek_inside() not in ("{", "["):  # scalars share a line
            yield from _render(self._value(), path)
            return
        for _ in self._items("[", "]"):
            yield ""
            yield from self._item(path)
        yield ""

    def _item(self, path: str) -> Iterator[str]:
        """Yield the lines of the next value."""
        first = self._peek()
        try:
            value = self._value(ITEM_CHARS if first in ("{", "[") and self._peek_inside() != "}" else None)
        except _TooLongError:
            yield from self._object(path) if first == "{" else self._list(path)
            return
        yield from _render(value, path)

    def _items(self, opening: str, closing: str) -> Iterator[None]:
        """Yield before each item of a list or object; the caller reads the item."""
        self._take(opening)
        if self._peek() == closing:
            self._take(closing)
            return
        while True:
            yield
            if self._peek() == closing:
                self._take(closing)
                return
            self._take(",")

    def _peek(self) -> str:
        """Return the next character that is not blank; empty at the end."""
        self._at = self._skip_blanks(0)
        return self._text[self._at : self._at + 1]

    def _peek_inside(self) -> str:
        """Return the first character that is not blank in the list or object that begins here."""
        at = self._skip_blanks(1)
        return self._text[at : at + 1]

    def _skip_blanks(self, ahead: int) -> int:
        """Return the place of the next character that is not blank, from some characters ahead on."""
        while True:
            found = _BLANK.match(self._text, self._at + ahead)
            ahead = (found.end() if found else len(self._text)) - self._at
            if self._at + ahead < len(self._text) or self._is_last:
                return self._at + ahead
            self._read_more()

    def _take(self, char: str) -> None:
        if self._peek() != char:
            raise json.JSONDecodeError(f"Expecting {char!r}", self._text, self._at)
        self._at += 1

    def _value(self, most_chars: int | None = None) -> Any:
        """Return the next value. Raises _TooLongError when it does not end within ``most_chars``."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_CHARS
                if self._is_last or not is_cut:
                    raise
            else:
                if self._is_last or end <= len(self._text) - _NEAR_CHARS:  # a number may go on in the next piece
                    self._at = end
                    return value
            if most_chars is not None and len(self._text) - self._at > most_chars:
                raise _TooLongError
            self._read_more()

    def _read_more(self) -> None:
        """Read at least as much as is known, so that an item of any length is copied and decoded a few times only."""
        parts = [self._text[self._at :]]
        added, wanted = 0, max(1, len(parts[0]))
        while self._next is not None and added < wanted:
            parts.append(self._next)
            added += len(self._next)
            self._next = next(self._pieces, None)
        self._text, self._at = "".join(parts), 0

    @property
    def _is_last(self) -> bool:
        return self._next is None


def read_jsonl(text: str) -> ParsedText:
    """Return a JSON Lines file's records, separated by empty lines. Raises as ``read_json``, naming the line."""
    return ParsedText("".join(render_jsonl([text])))


def render_jsonl(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of ``read_jsonl`` for a file in pieces. Cost: memory of one record."""
    growth = Growth()
    return growth.limit(_render_records(growth.count(pieces)))


def _render_records(pieces: Iterable[str]) -> Iterator[str]:
    separator = ""
    for number, line in enumerate((line.strip("\ufeff\r\n") for line in split_lines(pieces)), 1):
        if not line or line.isspace():
            continue
        value = _load(line, f"JSON Lines file, line {number},")
        gap = separator
        for piece in join_lines(_tidy(_render(value))):
            yield gap + piece
            gap, separator = "", "\n\n"


def _load(text: str, what: str) -> Any:
    try:
        return _DECODER.decode(text.strip())
    except json.JSONDecodeError as error:
        raise corrupt(what, error.msg) from error
    except RecursionError as error:
        raise corrupt(what, "it is nested too deeply") from error


def _render(value: Any, start: str = "") -> Iterator[str]:
    """Yield the lines of one value; iterative, because documents nest deeper than Python's recursion limit."""
    todo: list[tuple[str, Any]] = [(start, value)]
    while todo:
        path, item = todo.pop()
        if item is _BREAK:
            yield ""
            continue
        if isinstance(item, _Pairs) and item:
            todo.extend((f"{path}.{key}" if path else key, child) for key, child in reversed(item))
            continue
        if isinstance(item, list) and any(isinstance(child, _Pairs | list) for child in item):
            todo.append(("", _BREAK))
            for child in reversed(item):
                todo += [(path, child), ("", _BREAK)]
            continue
        yield f"{path}: {_scalar(item, path)}" if path else _scalar(item, path)


def _tidy(lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines with at most one empty line between two others, and none at the ends."""
    gap = False
    begun = False
    for line in lines:
        if not line:
            gap = begun
            continue
        if gap:
            yield ""
        yield line
        gap, begun = False, True


_BREAK = object()


def _scalar(item: Any, path: str) -> str:
    if isinstance(item, _Pairs):
        return "{}"
    if isinstance(item, list):
        return (", " if path else "\n").join(_scalar(child, path) for child in item) or "[]"
    if isinstance(item, bool):
        return "true" if item else "false"
    return "null" if item is None else str(item)
