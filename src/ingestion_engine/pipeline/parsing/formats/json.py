"""JSON and JSON Lines to text: one line per value with the path of its keys, blocks between objects of a list.

Numbers stay as written, and repeated keys are all kept. ``{"name": "Ada", "at": {"city": "London"}}`` becomes
``name: Ada`` and ``at.city: London``: embedding models make little use of brackets and quotes, and every passage keeps
its keys wherever it is cut.

A text that turns out to be no JSON raises OtherFormatError and is read as plain text: nothing of it is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ingestion_engine.domain.records import ReadWarning
from ingestion_engine.pipeline.parsing.pieces import Growth, OtherFormatError, TextInPieces, join_lines, split_lines
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


class JsonText(TextInPieces):
    """A JSON document's values as lines, with the first ``title`` of the document itself.

    Several values one after another, with or without line ends or commas between them, are blocks.

    Raises, while it is iterated:
        OtherFormatError: the text is not JSON.
        ObjectError: ``corrupt_document`` when it is cut short or nested too deeply; ``decompressed_too_large`` when
            very long keys make the text out of proportion.

    Cost: about 1 s per 10 MB; memory of a few pieces, one item of ``ITEM_CHARS``, and the longest list of scalars.
    """

    def __iter__(self) -> Iterator[str]:
        growth = Growth()
        reader = _Reader(growth.count(self._pieces))
        try:
            yield from growth.limit(join_lines(_tidy(reader.lines())))
        except json.JSONDecodeError as error:
            if reader.is_last and _is_cut(error):
                raise corrupt("JSON document", _fault(error)) from error
            raise OtherFormatError(error.msg) from error
        except RecursionError as error:
            raise corrupt("JSON document", "it is nested too deeply") from error
        self.title = reader.title
        self.warnings = reader.values.warnings()


class RelaxedJsonText(JsonText):
    """The text of ``JsonText`` for JSON with comments and trailing commas, as people write settings."""

    def __init__(self, pieces: Iterable[str]) -> None:
        super().__init__(_drop_comments(pieces))


class JsonLinesText(TextInPieces):
    """The records of a JSON Lines file, separated by empty lines.

    A line that is not JSON costs that line ("lines_skipped"). Where most lines are not JSON, the file is no JSON Lines
    file: it is better read as the text that it is than without most of its lines.

    Raises, while it is iterated:
        OtherFormatError: more lines are not JSON than are.
        ObjectError: ``decompressed_too_large`` when very long keys make the text out of proportion.

    Cost: about 1 s per 10 MB; memory of one line.
    """

    def __iter__(self) -> Iterator[str]:
        growth = Growth()
        return growth.limit(self._render(growth.count(self._pieces)))

    def _render(self, pieces: Iterable[str]) -> Iterator[str]:
        values = _Values()
        separator = first_bad = ""
        good = bad = 0
        for number, line in enumerate(split_lines(pieces), 1):
            try:
                records = decode_values(line.strip("\ufeff \t\r\n"))
            except (json.JSONDecodeError, RecursionError) as error:
                bad += 1
                reason = _fault(error) if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
                first_bad = first_bad or f"Line {number} is not JSON: {reason}."
                continue
            good += bool(records)
            for record in records:
                gap = separator
                for piece in join_lines(_tidy(values.lines(record))):
                    yield gap + piece
                    gap, separator = "", "\n\n"
        if bad > good:
            raise OtherFormatError(first_bad)
        skipped = (ReadWarning("lines_skipped", bad, first_bad),) if bad else ()
        self.warnings = skipped + values.warnings()


def decode_values(text: str) -> list[Any]:
    """Return the JSON values of a text that follow one another, also without anything between them.

    Raises json.JSONDecodeError, RecursionError.
    """
    values: list[Any] = []
    end = len(text)
    at = skip_gap(text, 0)
    while at < end:
        value, at = _DECODER.raw_decode(text, at)
        values.append(value)
        at = at if at == end else skip_gap(text, at)
    return values


def skip_gap(text: str, at: int) -> int:
    """Return the place of what follows a value: blanks and commas may stand between two. Pure."""
    found = _GAP.match(text, at)
    return found.end() if found else at


_GAP = re.compile(r"[ \t\n\r,\ufeff]*")
"""What may stand between values: a comma too, where a list was exported without its brackets."""


_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


def _fault(error: json.JSONDecodeError) -> str:
    """Return what is wrong, without the words before a place that some of the decoder's messages end with. Pure."""
    return error.msg.removesuffix(" at").removesuffix(" starting")


def _is_cut(error: json.JSONDecodeError) -> bool:
    """Return whether the end of the text is what is wrong with it."""
    rest = error.doc[error.pos :].strip()
    is_begun = any(literal.startswith(rest) for literal in _LITERALS)
    return is_begun or error.msg.startswith("Unterminated") or (len(rest) < _NEAR_CHARS and rest.startswith("u"))


def _drop_comments(pieces: Iterable[str]) -> Iterator[str]:
    """Yield JSON without ``//`` and ``/* */`` comments, and without commas before closing brackets."""
    relaxed = _Relaxed()
    for piece in pieces:
        yield relaxed.read(piece)
    yield relaxed.rest


_PLAIN_ENDS = re.compile(r'"|,|//|/\*|/\Z')
_STRING_ENDS = re.compile(r'"|\\')


class _Relaxed:
    """What is inside a string or a comment at the end of one piece, and a comma that may stand before a bracket."""

    def __init__(self) -> None:
        self._comma = ""
        self._half = ""
        """The first character of a mark, at the end of a piece."""
        self._inside = ""
        """The mark that began a string or comment."""
        self._is_escaped = False

    @property
    def rest(self) -> str:
        """What is left at the end of the text."""
        return self._comma + ("" if self._inside else self._half)

    def read(self, text: str) -> str:
        """Return the next piece without comments and last commas."""
        text, self._half = self._half + text, ""
        kept: list[str] = []
        at = 0
        while at < len(text):
            if self._inside == '"':
                end = self._end_of_string(text, at)
                kept.append(text[at:end])
            elif self._inside:
                closing = "\n" if self._inside == "//" else "*/"
                found = text.find(closing, at)
                end = len(text) if found < 0 else found + len(closing)
                if found >= 0:
                    kept.append(" ")
                    self._inside = ""
                elif closing == "*/" and text.endswith("*"):
                    self._half = "*"
            else:
                mark = _PLAIN_ENDS.search(text, at)
                end = mark.end() if mark else len(text)
                kept.append(self._plain(text[at : mark.start() if mark else end]))
                if mark:
                    kept.append(self._begin(mark.group()))
            at = end
        return "".join(kept)

    def _end_of_string(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        mark = _STRING_ENDS.search(text, at)
        if mark is None:
            return len(text)
        self._is_escaped = mark.group() == "\\"
        if not self._is_escaped:
            self._inside = ""
        return mark.end()

    def _plain(self, text: str) -> str:
        """Return text outside of strings and comments, with the comma before it if it needs one."""
        first = text.lstrip()[:1]
        if not first:
            return text
        comma, self._comma = self._comma, ""
        return text if first in ("]", "}") else comma + text

    def _begin(self, mark: str) -> str:
        if mark in ("//", "/*"):
            self._inside = mark
            return ""
        if mark == "/":
            self._half = mark
            return ""
        comma, self._comma = self._comma, "," if mark == "," else ""
        if mark == '"':
            self._inside = mark
        return comma + ("" if mark == "," else mark)


class _TooLongError(Exception):
    """The next item is longer than what is decoded at once."""


class _Reader:
    """Renders a document item by item: one object of a large list in memory at a time, and no long call in C.

    It splits the outermost value, the lists directly below it, and whatever is too long; Python's own decoder reads
    every item.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self.title: str | None = None
        self.values = _Values()
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
                yield from self.values.lines(value)
        while following := self._peek():
            if following == ",":
                self._take(",")
            elif following in ("{", "["):
                self.title = None  # that of one value among several
                yield ""
                yield from self._item("")
            else:
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
                yield from self.values.lines(value, key)
            else:
                yield from self._item(key)

    def _outer_list(self, path: str) -> Iterator[str]:
        if not path and self._peek_inside() == "]":
            self._value()  # a document without anything in it has no text
        else:
            yield from self._list(path)

    def _list(self, path: str) -> Iterator[str]:
        if self._peek_inside() not in ("{", "["):  # scalars share a line
            yield from self.values.lines(self._value(), path)
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
        yield from self.values.lines(value, path)

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
            if self._at + ahead < len(self._text) or self.is_last:
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
                if self.is_last or not is_cut:
                    raise
            else:
                if self.is_last or end <= len(self._text) - _NEAR_CHARS:  # a number may go on in the next piece
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
    def is_last(self) -> bool:
        """Whether the whole document has been read."""
        return self._next is None


_PAYLOAD_CHARS = 1024
"""Length from which a string of nothing but base64 is content of another file; keys, hashes and tokens are shorter."""
_LINE_CHARS = 60
"""Least length of a line of base64; usual are 64 and 76."""
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-="


def is_payload(text: str) -> bool:
    """Return whether a string is bytes in base64: long, no blanks, with digits and both cases of letters. Pure."""
    if len(text) < _PAYLOAD_CHARS or not text.isascii() or text.encode().translate(None, _BASE64 + b"\r\n"):
        return False
    kinds = (any(map(str.isupper, text)), any(map(str.islower, text)), any(map(str.isdigit, text)))
    return all(kinds) and all(len(line) >= _LINE_CHARS for line in text.split()[:-1])


class _Values:
    """Renders values, and counts those that are left out."""

    def __init__(self) -> None:
        self._payloads = 0
        self._first = ""

    def warnings(self) -> tuple[ReadWarning, ...]:
        """Return what was left out."""
        return (ReadWarning("base64_left_out", self._payloads, self._first),) if self._payloads else ()

    def lines(self, value: Any, start: str = "") -> Iterator[str]:
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
            scalar = self.scalar(item, path)
            if scalar is not None:
                yield f"{path}: {scalar}" if path else scalar

    def scalar(self, item: Any, path: str) -> str | None:
        """Return a value that has no lines of its own; None if it is left out."""
        if isinstance(item, str):
            if len(item) < _PAYLOAD_CHARS or not is_payload(item):
                return str(item)
            self._payloads += 1
            self._first = self._first or f"{path or 'A string'} is {len(item):,} characters of base64."
            return None
        if isinstance(item, _Pairs):
            return "{}"
        if isinstance(item, list):
            parts = [part for child in item if (part := self.scalar(child, path)) is not None]
            return None if item and not parts else (", " if path else "\n").join(parts) or "[]"
        if isinstance(item, bool):
            return "true" if item else "false"
        return "null"


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
