"""Word files (DOCX) to text, directly from their XML.

Kreuzberg 4.10 is not used: it drops ``&``, ``<`` and ``>`` from paragraphs. Reading the parts here also limits their
unpacked size.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.formats.office.package import (
    Package,
    find_child,
    get_attribute,
    local_name,
)
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt

_EXTRAS = ("footnotes", "endnotes", "comments", "header", "footer")
"""Kinds of relations to parts with texts that follow the document's."""
_HEADING_STYLE = re.compile(r"heading (\d)")
_DROPPED = frozenset({"del", "moveFrom", "Fallback", "instrText", "delText"})
"""Deleted text, field codes, and the copy of a text box for old readers."""


def read_docx(body: bytes, limit: int) -> ParsedText:
    """Return a Word document's text as Markdown; notes, comments, page headers and footers are at the end.

    Raises:
        ObjectError: ``corrupt_document``, ``encrypted_document``, or ``decompressed_too_large`` beyond ``limit`` bytes.

    Cost: about 1 s per 20 MB of XML; memory of one paragraph's or table's tree at a time.
    """
    package = Package(BoundedZip(body, limit, "Word document"), "word/document.xml")
    archive = package.archive
    levels = _heading_levels(package)
    blocks: list[str] = []
    first_heading: str | None = None
    for block, level in _word_blocks(archive, package.main, levels):
        if level and first_heading is None:
            first_heading = block.lstrip("# ")
        tight = block.startswith("- ") and blocks and blocks[-1].startswith("- ")
        blocks.append(block if not blocks else ("\n" if tight else "\n\n") + block)
    extras: dict[str, None] = {}
    for name in package.targets(package.main, *_EXTRAS):
        try:
            extras |= dict.fromkeys(block for block, _ in _word_blocks(archive, name, {}))
        except ObjectError as error:
            package.warn_unread(name, error)
    blocks += ["\n\n" + block for block in extras]
    return ParsedText(
        "".join(blocks), TextFormat.MARKDOWN, title=package.read_title() or first_heading, warnings=package.finish()
    )


def _heading_levels(package: Package) -> dict[str, int]:
    """Return the heading level, 1 to 6, by style id; a style inherits from the style it is based on."""
    styles = [root for part in package.targets(package.main, "styles") if (root := package.try_parse(part)) is not None]
    own: dict[str, int] = {}
    parents: dict[str, str] = {}
    for style in itertools.chain.from_iterable(styles):
        style_id = get_attribute(style, "styleId")
        if style_id is None:
            continue
        name = (get_attribute(find_child(style, "name"), "val") or "").lower()
        outline = get_attribute(find_child(style, "pPr/outlineLvl"), "val")
        found = _HEADING_STYLE.fullmatch(name)
        if found:
            own[style_id] = int(found.group(1))
        elif name == "title":
            own[style_id] = 1
        elif outline and outline.isdigit() and int(outline) < 9:
            own[style_id] = int(outline) + 1
        parents[style_id] = get_attribute(find_child(style, "basedOn"), "val") or ""
    levels = {}
    for style_id in parents:
        at, seen = style_id, set[str]()
        while at and at not in own and at not in seen:
            seen.add(at)
            at = parents.get(at, "")
        if at in own:
            levels[style_id] = min(own[at], 6)
    return levels


def _word_blocks(archive: BoundedZip, name: str, levels: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the blocks of a part with their heading level, 0 for none; finished paragraphs and tables are freed."""
    depth = 0
    try:
        # S314: expat bounds entity expansion and fetches nothing.
        for event, element in ET.iterparse(io.BytesIO(archive.read(name)), events=("start", "end")):  # noqa: S314
            local = local_name(element)
            if event == "start":
                depth += local in ("p", "tbl")
                continue
            if local not in ("p", "tbl"):
                continue
            depth -= 1
            if depth == 0:
                yield from _paragraph(element, levels) if local == "p" else _table(element)
                element.clear()
    except ET.ParseError as error:
        raise corrupt(archive.what, f"{name}: {error}") from error


def _paragraph(element: ET.Element, levels: dict[str, int]) -> Iterator[tuple[str, int]]:
    text = _run_text(element).strip()
    if not text:
        return
    properties = find_child(element, "pPr")
    outline = get_attribute(find_child(properties, "outlineLvl"), "val")
    level = levels.get(get_attribute(find_child(properties, "pStyle"), "val") or "", 0)
    if outline and outline.isdigit():
        level = min(int(outline) + 1, 6) if int(outline) < 9 else 0
    if level:
        yield "#" * level + " " + " ".join(text.split()), level
    elif find_child(properties, "numPr") is not None:
        yield "- " + text, 0
    else:
        yield text, 0


def _table(element: ET.Element) -> Iterator[tuple[str, int]]:
    rows = []
    for row in element:
        if local_name(row) == "tr":
            cells = (" ".join(_run_text(cell).split()) for cell in row.iter() if local_name(cell) == "tc")
            rows.append(" | ".join(cell for cell in cells if cell))
    text = "\n".join(row for row in rows if row)
    if text:
        yield text, 0


def _run_text(element: ET.Element) -> str:
    """Return the visible text below an element; paragraphs inside it (text boxes, cells) have lines of their own."""
    out: list[str] = []

    def walk(node: ET.Element) -> None:
        for child in node:
            local = local_name(child)
            if local == "t":
                out.append(child.text or "")
            elif local in ("tab", "ptab"):
                out.append("\t")
            elif local in ("br", "cr"):
                out.append("\n")
            elif local == "noBreakHyphen":
                out.append("-")
            elif local in ("pPr", "rPr", "tblPr", "tcPr") or local in _DROPPED:
                continue
            else:
                walk(child)
                if local == "p":
                    out.append("\n")

    walk(element)
    return "".join(out)
