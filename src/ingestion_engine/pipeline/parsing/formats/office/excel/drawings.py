"""Texts of a sheet beside its cells: text boxes, descriptions of pictures, charts, diagrams, controls and comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree as ET

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.formats.office.excel.sheet import unescape
from ingestion_engine.pipeline.parsing.formats.office.package import Package, find_child, get_attribute, local_name

_MOST_NESTING = 3
"""Drawings inside the charts of drawings, and so on, that are read."""

_BREAK = re.compile(rb"<br\s{0,9}>", re.IGNORECASE)
_AUTHOR_OF_THREAD = "tc="
"""Beginning of the author of a comment that repeats a thread of comments, for programs that know no threads."""


def read_drawings(package: Package, sheet: str) -> Iterator[str]:
    """Yield the texts of everything that is drawn on a sheet, each once. Unreadable parts become warnings."""
    seen: set[str] = set()
    for part in package.targets(sheet, "drawing"):
        for text in _read_drawing(package, part, _MOST_NESTING):
            seen.add(_fold(text))
            yield text
    for part in package.targets(sheet, "vmlDrawing"):
        for text in _read_vml(package, part):
            if _fold(text) not in seen:
                seen.add(_fold(text))
                yield text


def read_comments(package: Package, sheet: str) -> Iterator[str]:
    """Yield the comments on a sheet's cells, old ones and threads, each once: ``Comment on B2 by Ada: Why?``."""
    threads = list(_read_threads(package, sheet))
    for part in package.targets(sheet, "comments"):
        root = package.try_parse(part)
        authors = [_join_words(author) for author in _children(root, "authors")]
        for comment in _children(root, "commentList"):
            place = get_attribute(comment, "authorId") or ""
            author = authors[int(place)] if place.isdecimal() and int(place) < len(authors) else ""
            text = _join_words(find_child(comment, "text"))
            if text and not (threads and author.startswith(_AUTHOR_OF_THREAD)):
                yield _show_comment(get_attribute(comment, "ref") or "", author, text)
    yield from threads


def _read_threads(package: Package, sheet: str) -> Iterator[str]:
    people = dict(_read_people(package))
    for part in package.targets(sheet, "threadedComment"):
        root = package.try_parse(part)
        for comment in root if root is not None else ():
            if text := _join_words(find_child(comment, "text")):
                author = people.get(get_attribute(comment, "personId") or "", "")
                yield _show_comment(get_attribute(comment, "ref") or "", author, text)


def _children(root: ET.Element | None, name: str) -> Iterable[ET.Element]:
    found = find_child(root, name)
    return found if found is not None else ()


def _show_comment(place: str, author: str, text: str) -> str:
    by = "" if not author or author.startswith(_AUTHOR_OF_THREAD) else f" by {author}"
    return f"Comment on {place}{by}: {text.removeprefix(f'{author}:').strip() if author else text}"


def _read_people(package: Package) -> Iterator[tuple[str, str]]:
    for part in package.targets(package.main, "person"):
        root = package.try_parse(part) if package.archive.find(part) else None
        for person in root if root is not None else ():
            yield get_attribute(person, "id") or "", get_attribute(person, "displayName") or ""


def _read_drawing(package: Package, part: str, nesting: int) -> Iterator[str]:
    root = package.try_parse(part)
    if root is not None and nesting:
        yield from _read_shapes(package, part, root, nesting=nesting)


def _read_shapes(package: Package, part: str, root: ET.Element, *, nesting: int) -> Iterator[str]:
    """Yield the texts of shapes, pictures, charts and diagrams in order, those in groups included."""
    stack = [root]
    while stack:
        element = stack.pop()
        name = local_name(element)
        if name == "AlternateContent":
            stack += [next((child for child in element if local_name(child) in ("Choice", "Fallback")), ET.Element(""))]
            continue
        if name == "cNvPr" and (description := " ".join((element.get("descr") or element.get("title") or "").split())):
            yield description
        elif name == "txBody":
            if text := _read_paragraphs(element):
                yield text
            continue
        elif name == "chart" and (relation := package.relations(part).get(get_attribute(element, "id") or "")):
            yield from _read_chart(package, relation.target, nesting - 1)
        elif name == "relIds" and (relation := package.relations(part).get(get_attribute(element, "dm") or "")):
            yield from _read_texts(package, relation.target)
        stack += reversed(element)


def _read_chart(package: Package, part: str, nesting: int) -> Iterator[str]:
    """Yield the titles and labels of a chart, but not the values that it repeats from cells of the workbook."""
    root = package.try_parse(part)
    if root is None:
        return
    for element in root.iter():
        name = local_name(element)
        if name == "rich":
            if text := _read_paragraphs(element):
                yield text
        elif name in ("strLit", "numLit") or (name in ("strRef", "numRef") and _is_elsewhere(element)):
            values = (" ".join((e.text or "").split()) for e in element.iter() if local_name(e) == "v")
            if text := " | ".join(filter(None, values)):
                yield text
    for drawing in package.targets(part, "chartUserShapes"):
        yield from _read_drawing(package, drawing, nesting)


def _is_elsewhere(reference: ET.Element) -> bool:
    """Return whether a chart's values are from another workbook, so that no cell of this one has them."""
    formula = find_child(reference, "f")
    return formula is not None and "[" in (formula.text or "")


def _read_texts(package: Package, part: str) -> Iterator[str]:
    """Yield the text of every point of a diagram."""
    root = package.try_parse(part)
    for element in root.iter() if root is not None else ():
        if local_name(element) == "t" and len(element) and (text := _read_paragraphs(element)):
            yield text


def _read_paragraphs(body: ET.Element) -> str:
    """Return the text of a shape, one line per paragraph."""
    paragraphs = [element for element in body.iter() if local_name(element) == "p"]
    return "\n".join(filter(None, (_join_words(paragraph) for paragraph in paragraphs)))


def _join_words(element: ET.Element | None) -> str:
    """Return the text inside an element on one line, without the readings of East Asian words."""
    if element is None:
        return ""
    parts: list[str] = []
    stack = [element]
    while stack:
        element = stack.pop()
        name = local_name(element)
        if name == "br":
            parts.append(" ")
        elif name != "rPh":
            parts.append(element.text or "")
            stack += reversed(element)
        # Between the elements of a text is only white space of the file.
    return " ".join(unescape("".join(parts)).split())


def _read_vml(package: Package, part: str) -> Iterator[str]:
    """Yield the texts of controls and of shapes of old files; comments are read from their own part."""
    try:
        body = _BREAK.sub(b"<br/>", package.archive.read(part))  # Excel writes it so
        root = ET.fromstring(body)  # noqa: S314 - expat bounds entity expansion and fetches nothing
    except ObjectError as error:
        package.warn_unread(part, error)
        return
    except (ET.ParseError, LookupError, ValueError) as error:
        package.warn_unread(part, ObjectError("corrupt_document", str(error)))
        return
    for shape in root.iter():
        if local_name(shape) not in ("shape", "rect", "roundrect", "oval", "line"):
            continue
        data = find_child(shape, "ClientData")
        if data is not None and data.get("ObjectType") == "Note":
            continue
        for box in shape:
            stored = box.get("string", "") if local_name(box) == "textpath" else ""
            if text := " ".join(("".join(box.itertext()) if local_name(box) == "textbox" else stored).split()):
                yield text


def _fold(text: str) -> str:
    return "".join(text.split()).casefold()
