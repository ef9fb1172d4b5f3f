"""Jupyter notebooks (nbformat 3 and 4) to Markdown: texts as they are, code and printed output in fenced blocks.

Pictures, widgets and other data are left out: they are no text. Of the forms of one result, one is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.formats.html import read_html
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText

_ANSI = re.compile(r"\x1b\[[0-9;?]{0,32}[A-Za-z]")
"""Codes with which a terminal colours tracebacks."""

_FENCES = re.compile(r"`{3,}+")
_REPRESENTATION = re.compile(r"\s{0,8}<[^<>\n]{1,200}>\s{0,8}")
"""What Python prints of an object that only has a rich form: ``<IPython.core.display.HTML object>``."""

_HEADING = re.compile(r"^#{1,6} ++([^\n]*+)", re.MULTILINE)


def is_notebook(text: str) -> bool:
    """Return whether a text is a notebook: JSON with a list of cells that have a type. Cost: decodes the text."""
    return _cells(_load(text)) is not None


def read_notebook(text: str) -> ParsedText:
    """Return a notebook's cells and outputs as Markdown, and its title: its metadata's, or else the first heading.

    Cost: memory of about ten times the text.
    """
    document = _load(text)
    cells = _cells(document) or []
    metadata = _dict(document.get("metadata"))
    language = _dict(metadata.get("language_info")).get("name") or _dict(metadata.get("kernelspec")).get("language")
    blocks = [block for cell in cells for block in _read_cell(cell, str(language or ""))]
    named = metadata.get("title") or document.get("title")
    headings = (found[1] for cell in cells if cell.get("cell_type") == "markdown" and (found := _find_heading(cell)))
    title = named if isinstance(named, str) else next(headings, None)
    return ParsedText("\n\n".join(filter(None, blocks)), TextFormat.MARKDOWN, title=title)


def _find_heading(cell: dict[str, Any]) -> re.Match[str] | None:
    return _HEADING.search(_joined(cell.get("source")))


def _load(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return {}
    return _dict(document)


def _cells(document: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the cells of all worksheets; None for anything that is not a notebook."""
    sheets = document.get("worksheets")
    holders = sheets if isinstance(sheets, list) else [document]
    lists = [holder.get("cells") for holder in holders if isinstance(holder, dict)]
    cells = [cell for cells in lists if isinstance(cells, list) for cell in cells]
    is_one = any(isinstance(cells, list) for cells in lists) and all(
        isinstance(cell, dict) and "cell_type" in cell for cell in cells
    )
    return cells if is_one else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _joined(value: Any) -> str:
    """Return a text that is written as a string or as a list of its lines, which have their line ends."""
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _read_cell(cell: dict[str, Any], language: str) -> Iterator[str]:
    source = _joined(cell.get("source") if "source" in cell else cell.get("input")).strip("\n")
    kind = cell["cell_type"]
    if kind == "heading":  # nbformat 3
        level = cell.get("level")
        yield "#" * (level if isinstance(level, int) and 1 <= level <= 6 else 1) + " " + " ".join(source.split())
    elif kind == "code":
        own = cell.get("language")
        yield _fence(source, own if isinstance(own, str) else language)
        for output in cell.get("outputs") or ():
            yield _read_output(_dict(output))
    else:
        yield source


def _fence(text: str, language: str = "") -> str:
    """Return a text in a fenced block; empty for a blank one."""
    text = text.strip("\n")
    longest = max(map(len, _FENCES.findall(text)), default=2)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}" if text.strip() else ""


def _read_output(output: dict[str, Any]) -> str:
    kind = output.get("output_type")
    if kind in ("error", "pyerr"):
        trace = output.get("traceback")
        lines = [line for line in trace if isinstance(line, str)] if isinstance(trace, list) else []
        summary = f"{output.get('ename') or ''}: {output.get('evalue') or ''}".strip(": ")
        return _fence(_ANSI.sub("", "\n".join(lines)) or summary)
    if "text" in output and ("data" not in output) and kind in ("stream", None):
        return _fence(_ANSI.sub("", _joined(output["text"])))
    forms = _dict(output.get("data")) or {_MEDIA_TYPES.get(name, name): value for name, value in output.items()}
    if markdown := _joined(forms.get("text/markdown")):
        return markdown.strip("\n")
    plain, page = _ANSI.sub("", _joined(forms.get("text/plain"))), _joined(forms.get("text/html"))
    if page and (not plain.strip() or _REPRESENTATION.fullmatch(plain)):
        return read_html(page).text
    if latex := _joined(forms.get("text/latex")):
        return latex.strip("\n") if _REPRESENTATION.fullmatch(plain) or not plain.strip() else _fence(plain)
    return "" if _REPRESENTATION.fullmatch(plain) and len(forms) > 1 else _fence(plain)


_MEDIA_TYPES = {"text": "text/plain", "html": "text/html", "latex": "text/latex", "markdown": "text/markdown"}
"""Names of the forms of a result in nbformat 3."""
