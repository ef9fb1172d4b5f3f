"""What Office files show beside their text: charts, diagrams (SmartArt), files inside them."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from functools import partial
from xml.etree import ElementTree as ET

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.compound import find_embedded
from ingestion_engine.pipeline.parsing.formats.markdown_table import render_table
from ingestion_engine.pipeline.parsing.formats.office.equations import Equation
from ingestion_engine.pipeline.parsing.formats.office.excel.numbers import make_format
from ingestion_engine.pipeline.parsing.formats.office.package import Package, find_child, get_attribute, local_name
from ingestion_engine.pipeline.parsing.formats.symbol_fonts import map_private
from ingestion_engine.pipeline.parsing.parsed_text import ReadInner

_FILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".emf", ".wmf", ".svg", ".webp")

_MOST_INDENTED = 6
"""Levels of a diagram that are shown by indentation."""


def join_description(title: str, description: str) -> str:
    """Return what describes a picture or drawing for those who cannot see it; empty for the name of a file. Pure."""
    texts = dict.fromkeys(" ".join(text.split()) for text in (title, description))
    return ": ".join(text for text in texts if text and not _is_file_name(text))


def _is_file_name(text: str) -> bool:
    return text.lower().endswith(_FILE_SUFFIXES) and (" " not in text or "\\" in text or "/" in text)


def walk(root: ET.Element, is_skipped: Callable[[ET.Element], bool]) -> Iterator[tuple[ET.Element, bool]]:
    """Yield the elements below a root in order, each when it starts (True) and when it ends (False).

    Elements that are skipped are left out with all that is in them. Any depth is walked.
    """
    stack = [(root, iter(root))]
    while stack:
        element, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            if stack:
                yield element, False
        elif not is_skipped(child):
            yield child, True
            stack.append((child, iter(child)))


def is_no_text(element: ET.Element) -> bool:
    """Return whether an element is a copy for old programs or the number of the slide."""
    local = local_name(element)
    return local == "Fallback" or (local == "fld" and (element.get("type") or "").lower() == "slidenum")


def read_paragraphs(element: ET.Element | None, is_skipped: Callable[[ET.Element], bool] = is_no_text) -> list[str]:
    """Return the lines of all paragraphs of DrawingML below an element, without blank ones."""
    if element is None:
        return []
    lines: list[list[str]] = [[]]
    font = ""
    equation: Equation | None = None
    for child, is_start in walk(element, is_skipped):
        local = local_name(child)
        if equation is not None:
            if not is_start and local == "oMath":
                lines[-1].append(equation.take())
                equation = None
            elif not is_start:
                equation.end(local)
            elif local == "t":
                equation.text(child.text or "")
            else:
                equation.start(local, child.attrib)
        elif not is_start:
            if local == "p":
                lines.append([])
        elif local == "p":
            lines.append([])
        elif local == "t":
            lines[-1].append(map_private(child.text or "", font))
        elif local == "r":
            font = ""
        elif local in ("latin", "sym"):
            font = child.get("typeface") or font
        elif local == "oMath":
            equation = Equation()
        elif local in ("br", "tab"):
            lines[-1].append("\n" if local == "br" else "\t")
    return [line for parts in lines for text in "".join(parts).split("\n") if (line := text.strip())]


class Inserted:
    """Texts of the parts that a part shows by their relations: charts, diagrams, files. Each is text once."""

    def __init__(self, package: Package, part: str, read_inner: ReadInner) -> None:
        self._package = package
        self._part = part
        self._read_inner = read_inner
        self._seen: set[str] = set()

    @property
    def count(self) -> int:
        """Number of parts so far."""
        return len(self._seen)

    def read_chart(self, relation_id: str) -> list[str]:
        """Return the blocks of a chart; none, with a warning, if it cannot be read."""
        root = self._parse(relation_id)
        return list(render_chart(root)) if root is not None else []

    def read_diagram(self, relation_id: str) -> str:
        """Return the text of a diagram; empty, with a warning, if it cannot be read."""
        root = self._parse(relation_id)
        return render_diagram(root) if root is not None else ""

    def read_file(self, relation_id: str) -> str:
        """Return the text of a file inside this one; empty, with a warning, if it cannot be read."""
        part = self.find(relation_id)
        if part is None:
            return ""
        try:
            content = self._package.archive.read(part)
        except ObjectError as error:
            self._package.warn_unread(part, error)
            return ""
        inside = find_embedded(content) or (content, posixpath.basename(part))
        declared = self._package.content_type(part) if inside[0] is content else ""
        try:
            parsed = self._read_inner(*inside, declared)
        except ObjectError as error:
            self._package.warn("part_unreadable", f"{part}: {error}")
            return ""
        self._package.warnings.extend(parsed.warnings)
        return parsed.whole_text.strip()

    def find(self, relation_id: str) -> str | None:
        """Return the part of a relation unless it is text already; None, with a warning, if there is none."""
        if not relation_id:
            return None
        relation = self._package.relations(self._part).get(relation_id)
        if relation is None or relation.external:
            target = "linked, not embedded" if relation else "missing"
            self._package.warn("part_unreadable", f"{self._part}: the part of relation '{relation_id}' is {target}.")
            return None
        if relation.target in self._seen:
            return None
        self._seen.add(relation.target)
        return relation.target

    def _parse(self, relation_id: str) -> ET.Element | None:
        part = self.find(relation_id)
        return self._package.try_parse(part) if part else None


def render_chart(root: ET.Element) -> Iterator[str]:
    """Yield the blocks of a chart: titles, one table with categories and a column per series, and labels.

    Values are those stored with the chart, as last drawn; its workbook is not read.
    """
    titles = [element for element in root.iter() if local_name(element) == "title"]
    texts = ["\n".join(read_paragraphs(title)) or " ".join(_points(title).values()) for title in titles]
    yield from dict.fromkeys(text for text in texts if text)
    from_1904 = next((e for e in root.iter() if local_name(e) == "date1904"), None)
    read = partial(_points, since_1904=from_1904 is not None and from_1904.get("val", "1") not in ("0", "false"))
    groups: list[tuple[dict[int, str], list[tuple[str, dict[int, str]]]]] = []
    for series in (element for element in root.iter() if local_name(element) == "ser"):
        name = " ".join(_points(find_child(series, "tx")).values())
        categories = read(_first(series, "cat", "xVal"))
        columns = [(name, read(_first(series, "val", "yVal")))]
        if sizes := read(find_child(series, "bubbleSize")):
            columns.append((name, sizes))
        if groups and (groups[-1][0] == categories or not categories):
            groups[-1][1].extend(columns)
        else:
            groups.append((categories, columns))
    for categories, columns in [*groups, *_extended_groups(root)]:
        if table := _render_series(categories, columns):
            yield table
    labels = read_paragraphs(root, lambda element: local_name(element) in ("title", "Fallback"))
    if labels:
        yield "\n".join(dict.fromkeys(labels))


def _first(element: ET.Element, *names: str) -> ET.Element | None:
    return next((child for child in element if local_name(child) in names), None)


def _render_series(categories: dict[int, str], columns: list[tuple[str, dict[int, str]]]) -> str:
    numbers = sorted(set(categories).union(*(values for _, values in columns)))
    rows = [[categories.get(n, ""), *(values.get(n, "") for _, values in columns)] for n in numbers]
    names = [name for name, _ in columns]
    if not any(names):
        return render_table(rows, has_header=False)
    return render_table([["", *names], *rows], has_header=all(names))


def _points(element: ET.Element | None, *, since_1904: bool = False) -> dict[int, str]:
    """Return the stored values below an element by their place, as the chart shows them.

    Those of several levels are joined, the outermost first.
    """
    points: dict[int, str] = {}
    if element is None:
        return points
    levels = [level for level in element.iter() if local_name(level) == "lvl"]
    if len(levels) > 1:
        return _join_levels([_points(level, since_1904=since_1904) for level in levels])
    place = -1
    code = own = ""
    is_number = False
    for child in element.iter():
        local = local_name(child)
        if local in ("numCache", "numLit"):
            is_number = True
        elif local == "formatCode":
            code = child.text or ""
        elif local == "pt":
            index = child.get("idx", "")
            place = int(index) if index.isdecimal() and len(index) < 10 else place + 1
            own = child.get("formatCode", "")
        elif local == "v" and (text := (child.text or "").strip()):
            form = make_format(0, own or code, since_1904=since_1904)
            points[max(place, 0)] = form.show(text) if is_number else text
    return points


def _join_levels(levels: list[dict[int, str]]) -> dict[int, str]:
    """Return the innermost level's points, each with the outer ones that hold from their place to the next."""
    joined = dict(levels[0])
    for level in levels[1:]:
        held = ""
        for place in sorted(set(joined) | set(level)):
            held = level.get(place, held)
            if place in joined:
                joined[place] = f"{held} {joined[place]}".strip()
    return joined


def _extended_groups(root: ET.Element) -> Iterator[tuple[dict[int, str], list[tuple[str, dict[int, str]]]]]:
    """Yield the data of a chart of the newer kind (waterfall, treemap): categories, and values with their names."""
    names = {}
    for series in (element for element in root.iter() if local_name(element) == "series"):
        key = get_attribute(find_child(series, "dataId"), "val") or ""
        name = find_child(series, "tx/txData/v")
        names[key] = (name.text or "") if name is not None else ""
    for data in (element for element in root.iter() if local_name(element) == "data" and element.get("id") is not None):
        categories: dict[int, str] = {}
        columns = []
        for dimension in data:
            levels = [_values(level) for level in dimension if local_name(level) == "lvl"]
            if local_name(dimension) == "strDim" and levels:
                categories = _join_levels(levels)
            elif local_name(dimension) == "numDim" and levels:
                columns.append((names.get(data.get("id", ""), ""), levels[0]))
        yield categories, columns


def _values(level: ET.Element) -> dict[int, str]:
    form = make_format(0, level.get("formatCode", ""), since_1904=False)
    texts = [(child.text or "").strip() for child in level if local_name(child) == "pt"]
    is_number = level.get("formatCode") is not None
    return {place: form.show(text) if is_number else text for place, text in enumerate(texts) if text}


def render_diagram(root: ET.Element) -> str:
    """Return the texts of a diagram's data part as an indented list in the order of the diagram, each once."""
    texts: dict[str, str] = {}
    roots: list[str] = []
    for point in (element for element in root.iter() if local_name(element) == "pt"):
        key = point.get("modelId", "")
        if point.get("type") == "doc":
            roots.append(key)
        if point.get("type") != "pres":
            texts[key] = " ".join(read_paragraphs(find_child(point, "t")))
    children: dict[str, list[tuple[int, str]]] = {}
    for link in (element for element in root.iter() if local_name(element) == "cxn"):
        order = link.get("srcOrd", "")
        if link.get("type", "parOf") == "parOf":
            place = int(order) if order.isdecimal() and len(order) < 10 else 0
            children.setdefault(link.get("srcId", ""), []).append((place, link.get("destId", "")))
    lines: list[str] = []
    stack = [(0, key) for key in [*reversed(texts), *reversed(roots)]]  # points outside the tree follow it
    while stack:
        level, key = stack.pop()
        text = texts.pop(key, None)
        if text is None:
            continue
        if text:
            lines.append("  " * min(max(level - 1, 0), _MOST_INDENTED) + "- " + text)
        stack += [(level + 1, child) for _, child in sorted(children.get(key, ()), reverse=True)]
    return "\n".join(lines)
