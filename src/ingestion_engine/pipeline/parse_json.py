"""JSON and JSON Lines to text: one line per value with the path of its keys, blocks between objects of a list.

Digits stay as written, doubled keys stay both. ``{"name": "Ada", "at": {"city": "London"}}`` reads ``name: Ada`` and
``at.city: London``: embedding models make little of brackets and quotes, and a passage keeps its keys wherever it is
cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ingestion_engine.pipeline.parsed import ParsedText
from ingestion_engine.pipeline.unpack import corrupt


class _Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object with all its keys, doubled ones too."""

    __slots__ = ()


class _Literal(str):
    """A number or constant as it was written; rendered as it is, never taken for a string."""

    __slots__ = ()


_DECODER = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_float=_Literal, parse_int=_Literal, parse_constant=_Literal, strict=False
)


def read_json(text: str) -> ParsedText:
    """Return a JSON document's values.

    Raises:
        ObjectError: ``corrupt_document`` when it is cut short, not JSON, or nested too deeply to be read.

    Cost: about 1 s per 10 MB; memory about eight times the text.
    """
    value = _load(text, "JSON document")
    title = dict(value).get("title") if isinstance(value, _Pairs) else None
    if value in ((), [], "", None):
        return ParsedText()
    return ParsedText("\n".join(_render(value)), title=title if isinstance(title, str) else None)


def read_jsonl(text: str) -> ParsedText:
    """Return a JSON Lines file's records, an empty line between them. Raises like ``read_json``, naming the line."""
    blocks = []
    for number, line in enumerate(_lines(text), 1):
        if line and not line.isspace():
            blocks.append("\n".join(_render(_load(line, f"JSON Lines file, line {number},"))))
    return ParsedText("\n\n".join(block for block in blocks if block))


def _lines(text: str) -> Iterator[str]:
    """Lines ended by a line feed alone; ``str.splitlines`` would also cut at characters that JSON allows inside
    strings.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end].strip("\ufeff\r")
        start = end + 1


def _load(text: str, what: str) -> Any:
    try:
        return _DECODER.decode(text.strip())
    except json.JSONDecodeError as error:
        raise corrupt(what, error.msg) from error
    except RecursionError as error:
        raise corrupt(what, "it is nested too deeply") from error


def _render(value: Any) -> Iterator[str]:
    """Lines of one value; iterative, because documents nest deeper than Python recurses."""
    todo: list[tuple[str, Any]] = [("", value)]
    fresh = True
    while todo:
        path, item = todo.pop()
        if item is _BREAK:
            if not fresh:
                yield ""
            fresh = True
            continue
        if isinstance(item, _Pairs) and item:
            todo.extend((f"{path}.{key}" if path else key, child) for key, child in reversed(item))
            continue
        if isinstance(item, list) and any(isinstance(child, _Pairs | list) for child in item):
            for child in reversed(item):
                todo += [("", _BREAK), (path, child)]
            continue
        yield f"{path}: {_scalar(item, path)}" if path else _scalar(item, path)
        fresh = False


_BREAK = object()


def _scalar(item: Any, path: str) -> str:
    if isinstance(item, _Pairs):
        return "{}"
    if isinstance(item, list):
        return (", " if path else "\n").join(_scalar(child, path) for child in item) or "[]"
    if isinstance(item, bool):
        return "true" if item else "false"
    return "null" if item is None else str(item)
