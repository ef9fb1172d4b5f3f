"""PowerPoint files (PPTX) to text, directly from their XML.

Kreuzberg 4.10 is not used: it loses speaker notes or slide numbers, depending on its output format. Reading the parts
here also limits their unpacked size.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.formats.office.package import (
    Package,
    find_child,
    get_attribute,
    local_name,
)
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt


def read_pptx(body: bytes, limit: int) -> ParsedText:
    """Return a presentation's text, one page per slide in the order of presentation.

    A page has title, texts, table rows, diagrams and speaker notes. Hidden slides are kept. Raises as ``read_docx``.
    """
    package = Package(BoundedZip(body, limit, "PowerPoint presentation"), "ppt/presentation.xml")
    relations = package.relations(package.main)
    slides = find_child(package.parse(package.main), "sldIdLst")
    pages: list[str] = []
    first_title: str | None = None
    for slide in slides if slides is not None else ():
        relation_id = next((value for key, value in slide.attrib.items() if key.endswith("/relationships}id")), "")
        if relation_id not in relations:
            raise corrupt(package.archive.what, f"slide {len(pages) + 1} has no part")
        title, blocks = _slide(package, relations[relation_id].target)
        first_title = first_title or title
        pages.append("\n\n".join(blocks))
    return ParsedText(
        text_format=TextFormat.MARKDOWN,
        title=package.read_title() or first_title,
        pages=tuple(pages),
        warnings=package.finish(),
    )


def _slide(package: Package, name: str) -> tuple[str | None, list[str]]:
    title: str | None = None
    blocks: list[str] = []
    for kind, text in _shapes(package.parse(name)):
        if kind == "title" and title is None:
            title = " ".join(text.split())
            blocks.insert(0, f"## {title}")
        else:
            blocks.append(text)
    for target in package.targets(name, "notesSlide", "diagramData"):
        root = package.try_parse(target)
        blocks += [text for _, text in _shapes(root)] if root is not None else []
    return title, blocks


def _shapes(element: ET.Element) -> Iterator[tuple[str, str]]:
    """Yield (``title`` or ``text``, text) for the texts below an element; slide numbers are omitted."""
    for child in element:
        local = local_name(child)
        if local == "tbl":
            rows = (
                " | ".join(
                    filter(None, (" ".join(_paragraphs(cell).split()) for cell in row if local_name(cell) == "tc"))
                )
                for row in child
                if local_name(row) == "tr"
            )
            text = "\n".join(row for row in rows if row)
            if text:
                yield "text", text
        elif local in ("txBody", "t") and (text := _paragraphs(child)):
            yield "text", text
        elif local == "sp":
            placeholder = get_attribute(find_child(child, "nvSpPr/nvPr/ph"), "type")
            if placeholder not in ("sldNum", "sldImg"):
                kind = "title" if placeholder in ("title", "ctrTitle") else "text"
                yield from ((kind, text) for _, text in _shapes_below(child))
        elif local != "Fallback":
            yield from _shapes(child)


def _shapes_below(shape: ET.Element) -> Iterator[tuple[str, str]]:
    body = find_child(shape, "txBody")
    text = _paragraphs(body) if body is not None else ""
    if text:
        yield "text", text


def _paragraphs(element: ET.Element) -> str:
    lines = []
    for paragraph in (e for e in element.iter() if local_name(e) == "p"):
        runs = (
            "\n" if local_name(e) == "br" else e.text or "" for e in paragraph.iter() if local_name(e) in ("t", "br")
        )
        lines.append("".join(runs).strip())
    return "\n".join(line for line in lines if line)
