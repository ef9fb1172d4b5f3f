"""Word (DOCX) and PowerPoint (PPTX) files to text, directly from their XML.

Kreuzberg 4.10 is not used: it drops ``&``, ``<`` and ``>`` from Word paragraphs and loses speaker notes or slide
numbers, depending on its output format. Reading the parts here also limits their unpacked size.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt

_REL_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_EXTRA_PART = re.compile(r"word/(footnotes|endnotes|comments|header\d*|footer\d*)\.xml")
_HEADING_STYLE = re.compile(r"heading (\d)")
_DROPPED = frozenset({"del", "moveFrom", "Fallback", "instrText", "delText"})
"""Deleted text, field codes, and the copy of a text box for old readers."""

_DEFAULT_TITLES = frozenset({"PowerPoint Presentation", "Word Document", "Microsoft Word", "Untitled"})


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _attribute(element: ET.Element | None, name: str) -> str | None:
    """Return an attribute by its local name, in any namespace."""
    if element is None:
        return None
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def _find(element: ET.Element | None, path: str) -> ET.Element | None:
    """Return the first child along a path of local names, separated by slashes."""
    for name in path.split("/"):
        element = next((child for child in element if _local(child) == name), None) if element is not None else None
    return element


def parse_part(archive: BoundedZip, name: str) -> ET.Element:
    """Return the root of an XML part. Raises ObjectError: ``corrupt_document``, ``decompressed_too_large``."""
    try:
        return ET.fromstring(archive.read(name))  # noqa: S314 - expat bounds entity expansion and fetches nothing
    except ET.ParseError as error:
        raise corrupt(archive.what, f"{name}: {error}") from error


def _core_title(archive: BoundedZip) -> str | None:
    if "docProps/core.xml" not in archive.names:
        return None
    title = next((e.text for e in parse_part(archive, "docProps/core.xml").iter() if _local(e) == "title"), None)
    return title if title and title.strip() and title.strip() not in _DEFAULT_TITLES else None


# Word


def read_docx(body: bytes, limit: int) -> ParsedText:
    """Return a Word document's text as Markdown; notes, comments, page headers and footers are at the end.

    Raises:
        ObjectError: ``corrupt_document``, ``encrypted_document``, or ``decompressed_too_large`` beyond ``limit`` bytes.

    Cost: about 1 s per 20 MB of XML; memory of one paragraph's or table's tree at a time.
    """
    archive = BoundedZip(body, limit, "Word document")
    archive.check()
    levels = _heading_levels(archive)
    blocks: list[str] = []
    first_heading: str | None = None
    for block, level in _word_blocks(archive, "word/document.xml", levels):
        if level and first_heading is None:
            first_heading = block.lstrip("# ")
        tight = block.startswith("- ") and blocks and blocks[-1].startswith("- ")
        blocks.append(block if not blocks else ("\n" if tight else "\n\n") + block)
    extras = dict.fromkeys(
        block
        for name in sorted(name for name in archive.names if _EXTRA_PART.fullmatch(name))
        for block, _ in _word_blocks(archive, name, {})
    )
    blocks += ["\n\n" + block for block in extras]
    return ParsedText("".join(blocks), TextFormat.MARKDOWN, title=_core_title(archive) or first_heading)


def _heading_levels(archive: BoundedZip) -> dict[str, int]:
    """Return the heading level, 1 to 6, by style id; a style inherits from the style it is based on."""
    if "word/styles.xml" not in archive.names:
        return {}
    own: dict[str, int] = {}
    parents: dict[str, str] = {}
    for style in parse_part(archive, "word/styles.xml"):
        style_id = _attribute(style, "styleId")
        if style_id is None:
            continue
        name = (_attribute(_find(style, "name"), "val") or "").lower()
        outline = _attribute(_find(style, "pPr/outlineLvl"), "val")
        found = _HEADING_STYLE.fullmatch(name)
        if found:
            own[style_id] = int(found.group(1))
        elif name == "title":
            own[style_id] = 1
        elif outline and outline.isdigit() and int(outline) < 9:
            own[style_id] = int(outline) + 1
        parents[style_id] = _attribute(_find(style, "basedOn"), "val") or ""
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
            local = _local(element)
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
    properties = _find(element, "pPr")
    outline = _attribute(_find(properties, "outlineLvl"), "val")
    level = levels.get(_attribute(_find(properties, "pStyle"), "val") or "", 0)
    if outline and outline.isdigit():
        level = min(int(outline) + 1, 6) if int(outline) < 9 else 0
    if level:
        yield "#" * level + " " + " ".join(text.split()), level
    elif _find(properties, "numPr") is not None:
        yield "- " + text, 0
    else:
        yield text, 0


def _table(element: ET.Element) -> Iterator[tuple[str, int]]:
    rows = []
    for row in element:
        if _local(row) == "tr":
            cells = (" ".join(_run_text(cell).split()) for cell in row.iter() if _local(cell) == "tc")
            rows.append(" | ".join(cell for cell in cells if cell))
    text = "\n".join(row for row in rows if row)
    if text:
        yield text, 0


def _run_text(element: ET.Element) -> str:
    """Return the visible text below an element; paragraphs inside it (text boxes, cells) have lines of their own."""
    out: list[str] = []

    def walk(node: ET.Element) -> None:
        for child in node:
            local = _local(child)
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


# PowerPoint


def read_pptx(body: bytes, limit: int) -> ParsedText:
    """Return a presentation's text, one page per slide in the order of presentation.

    A page has title, texts, table rows, diagrams and speaker notes. Hidden slides are kept. Raises as ``read_docx``.
    """
    archive = BoundedZip(body, limit, "PowerPoint presentation")
    archive.check()
    relations = _relations(archive, "ppt/presentation.xml")
    slides = next((e for e in parse_part(archive, "ppt/presentation.xml") if _local(e) == "sldIdLst"), None)
    pages: list[str] = []
    first_title: str | None = None
    for slide in slides if slides is not None else ():
        name = relations.get(slide.get(_REL_ID, ""), ("", ""))[1]
        title, blocks = _slide(archive, name)
        first_title = first_title or title
        pages.append("\n\n".join(blocks))
    return ParsedText(text_format=TextFormat.MARKDOWN, title=_core_title(archive) or first_title, pages=tuple(pages))


def _relations(archive: BoundedZip, part: str) -> dict[str, tuple[str, str]]:
    """Return the relations of a part: id → (last word of the type, path of the target)."""
    folder, name = posixpath.split(part)
    path = f"{folder}/_rels/{name}.rels"
    if path not in archive.names:
        return {}
    return {
        relation.get("Id", ""): (
            relation.get("Type", "").rpartition("/")[2],
            posixpath.normpath(posixpath.join("/", folder, relation.get("Target", ""))).lstrip("/"),
        )
        for relation in parse_part(archive, path)
        if relation.get("TargetMode") != "External"
    }


def _slide(archive: BoundedZip, name: str) -> tuple[str | None, list[str]]:
    title: str | None = None
    blocks: list[str] = []
    for kind, text in _shapes(parse_part(archive, name)):
        if kind == "title" and title is None:
            title = " ".join(text.split())
            blocks.insert(0, f"## {title}")
        else:
            blocks.append(text)
    for kind, target in _relations(archive, name).values():
        if kind in ("notesSlide", "diagramData") and target in archive.names:
            blocks += [text for _, text in _shapes(parse_part(archive, target))]
    return title, blocks


def _shapes(element: ET.Element) -> Iterator[tuple[str, str]]:
    """Yield (``title`` or ``text``, text) for the texts below an element; slide numbers are omitted."""
    for child in element:
        local = _local(child)
        if local == "tbl":
            rows = (
                " | ".join(filter(None, (" ".join(_paragraphs(cell).split()) for cell in row if _local(cell) == "tc")))
                for row in child
                if _local(row) == "tr"
            )
            text = "\n".join(row for row in rows if row)
            if text:
                yield "text", text
        elif local in ("txBody", "t") and (text := _paragraphs(child)):
            yield "text", text
        elif local == "sp":
            placeholder = _attribute(_find(child, "nvSpPr/nvPr/ph"), "type")
            if placeholder not in ("sldNum", "sldImg"):
                kind = "title" if placeholder in ("title", "ctrTitle") else "text"
                yield from ((kind, text) for _, text in _shapes_below(child))
        elif local != "Fallback":
            yield from _shapes(child)


def _shapes_below(shape: ET.Element) -> Iterator[tuple[str, str]]:
    body = _find(shape, "txBody")
    text = _paragraphs(body) if body is not None else ""
    if text:
        yield "text", text


def _paragraphs(element: ET.Element) -> str:
    lines = []
    for paragraph in (e for e in element.iter() if _local(e) == "p"):
        runs = ("\n" if _local(e) == "br" else e.text or "" for e in paragraph.iter() if _local(e) in ("t", "br"))
        lines.append("".join(runs).strip())
    return "\n".join(line for line in lines if line)
