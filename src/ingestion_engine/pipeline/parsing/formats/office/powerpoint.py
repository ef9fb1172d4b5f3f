"""PowerPoint files (PPTX) to text, directly from their XML.

No library is used: python-pptx fails on strict files and leaves out diagrams and comments; Kreuzberg 4.10 loses speaker
notes or slide numbers, depending on its output format. Reading the parts here also limits their unpacked size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.etree import ElementTree as ET

from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.formats.markdown_table import MOST_CELLS, render_table
from ingestion_engine.pipeline.parsing.formats.office.drawing import (
    Inserted,
    join_description,
    read_paragraphs,
)
from ingestion_engine.pipeline.parsing.formats.office.package import (
    Package,
    find_child,
    get_attribute,
    get_link,
    local_name,
)
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText, ReadInner
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt

_NO_TEXT = frozenset({"sldNum", "sldImg"})
"""Placeholders that show the slide's number or picture."""


def read_pptx(body: bytes, limit: int, read_inner: ReadInner) -> ParsedText:
    """Return a presentation's text, one page per slide in the order of presentation.

    A page has title, texts, tables, charts, diagrams, descriptions of pictures, speaker notes and comments. Hidden
    slides are kept. Texts of layouts and masters, prompts for the author, are not read.

    Raises:
        ObjectError: as ``read_docx``; also when one slide cannot be read.
    """
    package = Package(BoundedZip(body, limit, "PowerPoint presentation"), "ppt/presentation.xml")
    relations = package.relations(package.main)
    slides = find_child(package.parse(package.main), "sldIdLst")
    pages: list[str] = []
    first_title: str | None = None
    for slide in slides if slides is not None else ():
        relation = relations.get(get_link(slide))
        if relation is None:
            raise corrupt(package.archive.what, f"slide {len(pages) + 1} has no part")
        reader = _Slide(package, relation.target, read_inner)
        pages.append("\n\n".join(reader.read()))
        first_title = first_title or reader.title
    return ParsedText(
        text_format=TextFormat.MARKDOWN,
        title=package.read_title() or first_title,
        pages=tuple(pages),
        warnings=package.finish(),
    )


class _Slide:
    """The text of one slide."""

    def __init__(self, package: Package, part: str, read_inner: ReadInner) -> None:
        self.title: str | None = None
        self._package = package
        self._part = part
        self._read_inner = read_inner
        self._inserted = Inserted(package, part, read_inner)
        self._blocks: list[str] = []

    def read(self) -> list[str]:
        """Return the blocks, the title first. Raises ObjectError: ``corrupt_document``, ``decompressed_too_large``."""
        self._walk(self._package.parse(self._part))
        for part in self._package.targets(self._part, "notesSlide"):
            if (root := self._package.try_parse(part)) is not None:
                self._inserted = Inserted(self._package, part, self._read_inner)
                self._walk(root)
        for part in self._package.targets(self._part, "comments"):
            if (root := self._package.try_parse(part)) is not None:
                self._blocks += _comments(root)
        heading = [f"## {self.title}"] if self.title else []
        return heading + self._blocks

    def _walk(self, root: ET.Element) -> None:
        """Collect the shapes below an element in order, at any depth of groups."""
        stack: list[Iterator[ET.Element]] = [iter(root)]
        while stack:
            element = next(stack[-1], None)
            if element is None:
                stack.pop()
            elif (inside := self._read(element)) is not None:
                stack.append(iter(inside))

    def _read(self, element: ET.Element) -> Iterable[ET.Element] | None:
        """Collect the text of a shape; return the elements to go on with inside it, None for none."""
        local = local_name(element)
        if local == "AlternateContent":
            return self._alternatives(element)
        if local == "tbl":
            self._add(_render_table(element))
        elif local == "txBody":
            self._add("\n".join(read_paragraphs(element)))
        elif local == "cNvPr":
            self._add(join_description(element.get("title", ""), element.get("descr", "")))
        elif local == "chart":
            self._blocks += self._inserted.read_chart(get_link(element))
        elif local == "relIds":
            self._add(self._inserted.read_diagram(get_link(element, "dm")))
        elif local == "oleObj":
            self._add(self._inserted.read_file(get_link(element)))
            return element
        elif local == "sp":
            return self._read_shape(element)
        else:
            return element
        return None

    def _read_shape(self, shape: ET.Element) -> Iterable[ET.Element] | None:
        placeholder = get_attribute(find_child(shape, "nvSpPr/nvPr/ph"), "type")
        if placeholder in _NO_TEXT:
            return None
        if placeholder in ("title", "ctrTitle") and self.title is None:
            self.title = " ".join(" ".join(read_paragraphs(find_child(shape, "txBody"))).split()) or None
            return None
        return shape

    def _alternatives(self, element: ET.Element) -> Iterator[ET.Element]:
        """Yield the content of the first form of a drawing that has text."""
        before = len(self._blocks), self.title, self._inserted.count
        for form in element:
            yield from form
            if (len(self._blocks), self.title, self._inserted.count) != before:
                return

    def _add(self, text: str) -> None:
        if text:
            self._blocks.append(text)


def _render_table(table: ET.Element) -> str:
    rows = []
    for row in (child for child in table if local_name(child) == "tr"):
        texts: list[str] = []
        for cell in (child for child in row if local_name(child) == "tc"):
            if len(texts) < MOST_CELLS:
                texts.append(" ".join(read_paragraphs(cell)))
        rows.append(texts)
    marked = get_attribute(find_child(table, "tblPr"), "firstRow") in ("1", "true")
    return render_table(rows, has_header=True if marked and rows and all(rows[0][1:]) else None)


def _comments(root: ET.Element) -> Iterator[str]:
    """Yield the comments on a slide; replies follow what they reply to."""
    for comment in (element for element in root.iter() if local_name(element) in ("cm", "reply")):
        texts = [child.text or "" for child in comment if local_name(child) == "text"]
        texts += read_paragraphs(find_child(comment, "txBody"))
        if text := "\n".join(filter(None, map(str.strip, texts))):
            yield text
