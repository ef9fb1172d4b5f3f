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


def read_json(text: str) -> ParsedText:
    """Return a JSON document's values as lines.

    Raises:
        ObjectError: ``corrupt_document`` when the text is cut short, not JSON, or nested too deeply.

    Cost: about 1 s per 10 MB; memory of the text twice, and of one object in a list.
    """
    reader = _Reader(text)
    try:
        lines = list(_tidy(reader.lines()))
    except json.JSONDecodeError as error:
        raise corrupt("JSON document", error.msg) from error
    except RecursionError as error:
        raise corrupt("JSON document", "it is nested too deeply") from error
    return ParsedText("\n".join(lines), title=reader.title)


class _Reader:
    """Renders a document item by item: one object of a large list in memory at a time, and no long call in C.

    It splits the outermost value and the lists directly below it; Python's own decoder reads every item.
    """

    def __init__(self, text: str) -> None:
        self.title: str | None = None
        self._text = text
        self._at = 0

    def lines(self) -> Iterator[str]:
        """Yield the lines of the whole document. Raises json.JSONDecodeError, RecursionError."""
        first = self._peek()
        if first == "{":
            yield from self._object()
        elif first == "[":
            yield from self._list("")
        else:
            value = self._value()
            if value not in ("", None):
                yield _scalar(value, "")
        if self._peek():
            raise json.JSONDecodeError("Extra data", self._text, self._at)

    def _object(self) -> Iterator[str]:
        for _ in self._items("{", "}"):
            if self._peek() != '"':
                raise json.JSONDecodeError("Expecting property name", self._text, self._at)
            key = str(self._value())
            self._take(":")
            if self._peek() == "[":
                yield from self._list(key)
                continue
            value = self._value()
            if key == "title" and isinstance(value, str) and not isinstance(value, _Literal):
                self.title = self.title or value
            yield from _render(value, key)

    def _list(self, path: str) -> Iterator[str]:
        start = self._at
        self._take("[")
        if self._peek() not in ("{", "["):  # scalars share a line
            self._at = start
            value = self._value()
            if path or value:
                yield from _render(value, path)
            return
        self._at = start
        for _ in self._items("[", "]"):
            yield ""
            yield from _render(self._value(), path)
        yield ""

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
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, char: str) -> None:
        if self._peek() != char:
            raise json.JSONDecodeError(f"Expecting {char!r}", self._text, self._at)
        self._at += 1

    def _value(self) -> Any:
        self._peek()
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        return value


def read_jsonl(text: str) -> ParsedText:
    """Return a JSON Lines file's records, separated by empty lines. Raises as ``read_json``, naming the line."""
    return ParsedText("".join(render_jsonl([text])))


def render_jsonl(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of ``read_jsonl`` for a file in pieces. Cost: memory of one record."""
    gap = ""
    for number, line in enumerate(_lines(pieces), 1):
        if not line or line.isspace():
            continue
        block = "\n".join(_tidy(_render(_load(line, f"JSON Lines file, line {number},"))))
        if block:
            yield gap + block
            gap = "\n\n"


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Yield lines, split only at line feeds: ``str.splitlines`` also splits at characters that strings may contain."""
    begun: list[str] = []
    for piece in pieces:
        start = 0
        while (end := piece.find("\n", start)) >= 0:
            begun.append(piece[start:end])
            yield "".join(begun).strip("\ufeff\r")
            begun.clear()
            start = end + 1
        begun.append(piece[start:])
    yield "".join(begun).strip("\ufeff\r")


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
