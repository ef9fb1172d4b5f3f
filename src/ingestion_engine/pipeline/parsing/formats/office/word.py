"""Word files (DOCX) to text, directly from their XML in one pass.

No library is used: python-docx and docx2python read the parts that they know by name and leave out text boxes, charts,
diagrams and imported parts or put them elsewhere; mammoth and docling read less. Kreuzberg 4.10 drops ``&``, ``<`` and
``>``. Reading the parts here also limits their unpacked size, and memory to the text.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from xml.parsers import expat

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.formats.markdown_table import MOST_CELLS, render_table
from ingestion_engine.pipeline.parsing.formats.office.drawing import Inserted, join_description
from ingestion_engine.pipeline.parsing.formats.office.equations import Equation
from ingestion_engine.pipeline.parsing.formats.office.package import Package, find_child, get_attribute
from ingestion_engine.pipeline.parsing.formats.symbol_fonts import map_private, map_symbol
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText, ReadInner
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt

_NOTES = ("footnotes", "endnotes", "comments")
"""Kinds of relations to parts with texts that follow the document's."""

_MARGINS = ("header", "footer")
"""Kinds of relations to page headers and footers; what several of them repeat is text once."""

_HEADING_STYLE = re.compile(r"heading (\d)")

_DROPPED = frozenset({"del", "moveFrom", "delText", "delInstrText", "instrText"})
"""Deleted text, and field codes; what a field shows is text."""

_PROPERTIES = frozenset(
    {"pPr", "rPr", "tcPr", "trPr", "tblPr", "tblPrEx", "tblGrid", "sectPr", "sdtPr", "sdtEndPr", "bodyPr"}
    | {"spPr", "ctrlPr", "customXmlPr", "smartTagPr"}
)
"""Elements without text; ``_property`` reads what matters in them."""

_PROPERTY_NAMES = frozenset(
    {"pStyle", "numId", "outlineLvl", "del", "moveFrom", "rFonts", "gridSpan", "cellDel", "tblHeader", "gridBefore"}
)

_OFF = frozenset({"0", "false", "off"})

_FIELD_SWITCH = re.compile(r"\\\* ?\w+|\\[A-Za-z]+ ?-?\d*")
"""Commands of an EQ field, whose operands are what it shows."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A paragraph or table as text."""

    text: str
    level: int = 0
    """Heading level; 0 for none."""
    listed: bool = False


_Node = _Block | list["_Node"]


@dataclass(slots=True)
class _Field:
    """A field whose code has begun in this paragraph."""

    start: int
    """Number of the paragraph's parts before it."""
    shows: bool = False
    """True after the code, where the text that the field shows begins."""
    code: str = ""
    checked: bool | None = None
    """State of a form's check box; None for none."""
    choices: list[str] = field(default_factory=list)
    chosen: int = 0


@dataclass(slots=True)
class _Paragraph:
    depth: int
    parts: list[str]
    outer: list[str]
    """The parts of what is around it, which go on after it."""
    after: list[_Node] = field(default_factory=list, init=False)
    """Text boxes and drawings in it."""
    style: str = field(default="", init=False)
    outline: int | None = field(default=None, init=False)
    listed: bool = field(default=False, init=False)
    joined: bool = field(default=False, init=False)
    """True when its end is deleted: the next paragraph continues it."""
    fields: list[_Field] = field(default_factory=list, init=False)


@dataclass(slots=True)
class _Flow:
    """Paragraphs and tables one after the other: a part, a cell."""

    depth: int
    nodes: list[_Node] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    """Text of a paragraph whose end is deleted."""
    span: int = 1
    deleted: bool = False
    has_table: bool = False


@dataclass(slots=True)
class _Row:
    depth: int
    cells: list[_Flow] = field(default_factory=list)
    before: int = 0
    deleted: bool = False
    is_header: bool = False


@dataclass(slots=True)
class _Table:
    depth: int
    rows: list[_Row] = field(default_factory=list)


@dataclass(slots=True)
class _Alternatives:
    """Several forms of one drawing, the newest first; the first with text counts."""

    depth: int
    written: int


def read_docx(body: bytes, limit: int, read_inner: ReadInner) -> ParsedText:
    """Return a Word document's text as Markdown; notes, comments, page headers and footers are at the end.

    A part beside the document's own text that cannot be read costs a warning: a note, a chart, an embedded file.

    Raises:
        ObjectError: ``corrupt_document``, ``encrypted_document``, or ``decompressed_too_large`` beyond ``limit`` bytes.

    Cost: about 1 s per 20 MB of XML; memory of the text, whatever the depth of nesting.
    """
    package = Package(BoundedZip(body, limit, "Word document"), "word/document.xml")
    levels = _heading_levels(package)
    blocks = _Reader(package, package.main, levels, read_inner=read_inner).read()
    heading = next((block.text for block in blocks if block.level), None)
    for part in itertools.chain.from_iterable(package.targets(package.main, kind) for kind in _NOTES):
        blocks += _read_beside(package, part, read_inner)
    margins = [
        _read_beside(package, part, read_inner) for kind in _MARGINS for part in package.targets(package.main, kind)
    ]
    blocks += dict.fromkeys(itertools.chain.from_iterable(margins))
    return ParsedText(
        "".join(_join(blocks)), TextFormat.MARKDOWN, title=package.read_title() or heading, warnings=package.finish()
    )


def _read_beside(package: Package, part: str, read_inner: ReadInner) -> list[_Block]:
    """Return the blocks of a part without which the document can be read; none, with a warning, if it is damaged."""
    try:
        return _Reader(package, part, {}, read_inner=read_inner).read()
    except ObjectError as error:
        package.warn_unread(part, error)
        return []


def _join(blocks: list[_Block]) -> Iterator[str]:
    """Yield the text in pieces: items of a list on lines of their own, other blocks apart."""
    last: _Block | None = None
    for block in blocks:
        if last is not None:
            yield "\n" if last.listed and block.listed else "\n\n"
        yield "#" * block.level + " " * bool(block.level) + "- " * block.listed + block.text
        last = block


def _heading_levels(package: Package) -> dict[str, int]:
    """Return the heading level, 1 to 6, by style id; a style inherits from the style it is based on."""
    roots = [package.try_parse(part) for part in package.targets(package.main, "styles")]
    own: dict[str, int] = {}
    parents: dict[str, str] = {}
    for style in itertools.chain.from_iterable(root for root in roots if root is not None):
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
        elif (number := _count(outline or "", 9)) < 9:
            own[style_id] = number + 1
        parents[style_id] = get_attribute(find_child(style, "basedOn"), "val") or ""
    levels: dict[str, int] = {}
    for style_id in parents:
        at, chain = style_id, list[str]()
        while at and at not in own and at not in levels and at in parents and len(chain) < _MOST_PARENTS:
            chain.append(at)
            at = parents[at]
        level = own.get(at) or levels.get(at, 0)
        levels |= dict.fromkeys([*chain, style_id], min(level, 6))
    return levels


_MOST_PARENTS = 32
"""Styles that a style is based on, one on the other; Word follows eleven."""


def _count(value: str, most: int) -> int:
    """Return a number of a property; ``most`` for a larger one and for anything else."""
    return min(int(value), most) if value.isdecimal() and len(value) < 10 else most


def _get(attributes: Mapping[str, str], name: str) -> str:
    """Return an attribute by its local name; empty if it is missing."""
    return next((value for key, value in attributes.items() if key.rpartition(":")[2] == name), "")


def _get_link(attributes: Mapping[str, str], name: str = "id") -> str:
    """Return the id of a relation: an attribute with a prefix, because some elements have an ``id`` of their own."""
    return next((value for key, value in attributes.items() if key.endswith(f":{name}")), "")


class _Reader:
    """The blocks of one part.

    Elements that only mark text (insertions, content controls, custom XML, links) are passed through, so that what is
    inside counts wherever it stands.
    """

    def __init__(self, package: Package, part: str, levels: Mapping[str, int], *, read_inner: ReadInner) -> None:
        self._package = package
        self._part = part
        self._levels = levels
        self._inserted = Inserted(package, part, read_inner)
        self._depth = 0
        self._open: list[_Flow | _Paragraph | _Table | _Row | _Alternatives] = [_Flow(0)]
        self._parts: list[str] = []
        """Text of the innermost open paragraph, or outside of any."""
        self._loose = self._parts
        self._skipped = 0
        """Open elements without text, the outermost one included."""
        self._path: list[str] = []
        """Names of the open properties."""
        self._text: list[str] | None = None
        """Characters of the open element of text; None outside of any."""
        self._font = ""
        self._written = 0
        """Texts and drawings so far: shows whether a form of a drawing had any."""
        self._equation: Equation | None = None
        self._equation_depth = 0
        self._ruby: tuple[list[str], list[str]] | None = None
        """The parts around a reading of characters, and the reading."""
        self._described: set[str] = set()
        self._form: _Field | None = None

    def read(self) -> list[_Block]:
        """Return the blocks. Raises ObjectError: ``corrupt_document``, ``decompressed_too_large``."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        archive = self._package.archive
        pieces = archive.pieces(self._part)
        try:
            for piece in pieces:
                parser.Parse(piece, False)
            parser.Parse(b"", True)
        except (expat.ExpatError, LookupError, ValueError) as error:  # the latter for encodings without a decoder
            deque(pieces, 0)  # a part that is too large is reported as such
            raise corrupt(archive.what, f"{self._part}: {error}") from error
        flow = self._open[0]
        assert isinstance(flow, _Flow)
        self._close_loose()
        self._close_flow(flow)
        return list(_flatten(flow.nodes))

    # Events

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        local = name.rpartition(":")[2]
        if self._skipped:
            self._skipped += 1
            if self._path:
                self._path.append(local)
                if local in _PROPERTY_NAMES:
                    self._property("/".join(self._path), attributes)
            return
        if local in _DROPPED or local in _PROPERTIES:
            if local == "instrText" and (code := self._field) is not None and not code.shows:
                self._text = []
                return
            self._skipped = 1
            self._path = [local] if local in _PROPERTIES else []
            return
        if self._equation is not None and local != "t":
            self._equation.start(local, attributes)
            return
        handler = self._STARTS.get(local)
        if handler is not None:
            handler(self, attributes)

    def _end(self, name: str) -> None:
        depth, self._depth = self._depth, self._depth - 1
        if self._skipped:
            self._skipped -= 1
            if self._path:
                self._path.pop()
            return
        local = name.rpartition(":")[2]
        if self._text is not None:
            self._take_text(local)
            return
        if self._equation is not None:
            if depth == self._equation_depth:
                self._write(self._equation.take())
                self._equation = None
            else:
                self._equation.end(local)
            return
        top = self._open[-1]
        if depth == top.depth:
            self._open.pop()
            self._close(top)
        elif (handler := self._ENDS.get(local)) is not None:
            handler(self)

    def _characters(self, data: str) -> None:
        if self._text is not None and not self._skipped:
            self._text.append(data)

    # Text of a paragraph

    def _write(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self._written += not text.isspace()

    def _begin_text(self, _: Mapping[str, str]) -> None:
        self._text = []

    def _take_text(self, local: str) -> None:
        text, self._text = "".join(self._text or ()), None
        if local == "instrText":
            if (code := self._field) is not None:
                code.code += text
        elif self._equation is not None:
            self._equation.text(text)
        else:
            self._write(map_private(text, self._font))

    def _write_symbol(self, attributes: Mapping[str, str]) -> None:
        font, code = _get(attributes, "font"), _get(attributes, "char")
        try:
            char = map_symbol(font, int(code, 16))
        except ValueError:
            char = None
        if char is None:
            self._package.warn("text_without_unicode", f"{self._part}: character {code} of the font {font}.")
        else:
            self._write(char)

    def _begin_run(self, _: Mapping[str, str]) -> None:
        self._font = ""

    def _begin_equation(self, _: Mapping[str, str]) -> None:
        self._equation, self._equation_depth = Equation(), self._depth

    def _begin_reading(self, _: Mapping[str, str]) -> None:
        if self._ruby is None:
            self._ruby = (self._parts, [])
            self._parts = self._ruby[1]

    def _end_reading(self) -> None:
        if self._ruby is not None and self._parts is self._ruby[1]:
            self._parts = self._ruby[0]

    def _end_ruby(self) -> None:
        """Write the reading of characters behind them: 漢字(かんじ)."""
        if self._ruby is not None:
            self._end_reading()
            reading = "".join(self._ruby[1]).strip()
            self._ruby = None
            self._write(f"({reading})" if reading else "")

    # Fields

    @property
    def _field(self) -> _Field | None:
        """The innermost field whose code began in the open paragraph."""
        paragraph = self._open[-1]
        return paragraph.fields[-1] if isinstance(paragraph, _Paragraph) and paragraph.fields else None

    def _mark_field(self, attributes: Mapping[str, str]) -> None:
        """Drop what is inside a field's code, once the code has ended; what never ends is kept."""
        paragraph = self._open[-1]
        if not isinstance(paragraph, _Paragraph) or self._parts is not paragraph.parts:
            return
        kind = _get(attributes, "fldCharType")
        if kind == "begin":
            paragraph.fields.append(_Field(len(paragraph.parts)))
        elif paragraph.fields and kind == "separate":
            paragraph.fields[-1].shows = True
            del paragraph.parts[paragraph.fields[-1].start :]
        elif paragraph.fields and kind == "end":
            ended = paragraph.fields.pop()
            if not ended.shows:
                del paragraph.parts[ended.start :]
            if not "".join(paragraph.parts[ended.start :]).strip():
                self._write(_shown(ended))

    def _begin_form(self, _: Mapping[str, str]) -> None:
        self._form = self._field

    def _end_form(self) -> None:
        self._form = None

    def _set_box(self, _: Mapping[str, str]) -> None:
        if self._form is not None:
            self._form.checked = False

    def _set_checked(self, attributes: Mapping[str, str]) -> None:
        if self._form is not None and self._form.checked is not None:
            self._form.checked = _get(attributes, "val") not in _OFF

    def _set_choice(self, attributes: Mapping[str, str]) -> None:
        if self._form is not None:
            self._form.choices.append(_get(attributes, "val"))

    def _set_result(self, attributes: Mapping[str, str]) -> None:
        if self._form is not None:
            self._form.chosen = _count(_get(attributes, "val"), MOST_CELLS)

    def _set_default(self, attributes: Mapping[str, str]) -> None:
        self._set_checked(attributes)
        self._set_result(attributes)

    # Properties

    def _property(self, path: str, attributes: Mapping[str, str]) -> None:
        top = self._open[-1]
        value = _get(attributes, "val")
        if path == "rPr/rFonts":
            self._font = _get(attributes, "ascii")
        elif isinstance(top, _Paragraph):
            if path == "pPr/pStyle":
                top.style = value
            elif path == "pPr/outlineLvl":
                top.outline = _count(value, 9)
            elif path == "pPr/numPr/numId":
                top.listed = value != "0"
            elif path in ("pPr/rPr/del", "pPr/rPr/moveFrom"):
                top.joined = True
        elif isinstance(top, _Row):
            if path == "trPr/gridBefore":
                top.before = _count(value, MOST_CELLS)
            elif path == "trPr/tblHeader":
                top.is_header = value not in _OFF
            elif path == "trPr/del":
                top.deleted = True
        elif isinstance(top, _Flow):
            if path == "tcPr/gridSpan":
                top.span = max(_count(value, MOST_CELLS), 1)
            elif path == "tcPr/cellDel":
                top.deleted = True

    # Blocks

    def _begin_paragraph(self, _: Mapping[str, str]) -> None:
        top = self._open[-1]
        parts: list[str] = []
        if isinstance(top, _Flow):
            self._close_loose()
            parts, top.held = top.held, []
        self._open.append(_Paragraph(self._depth, parts, self._parts))
        self._parts = parts

    def _begin_table(self, _: Mapping[str, str]) -> None:
        self._close_loose()
        self._open.append(_Table(self._depth))

    def _begin_row(self, _: Mapping[str, str]) -> None:
        if isinstance(self._open[-1], _Table):
            self._open.append(_Row(self._depth))

    def _begin_cell(self, _: Mapping[str, str]) -> None:
        if isinstance(self._open[-1], _Row):
            self._open.append(_Flow(self._depth))

    def _close(self, ended: _Flow | _Paragraph | _Table | _Row | _Alternatives) -> None:
        outer = self._open[-1] if self._open else None
        if isinstance(ended, _Paragraph):
            self._close_paragraph(ended)
        elif isinstance(ended, _Table):
            self._add(list(_table_nodes(ended)))
            if isinstance(outer, _Flow):
                outer.has_table = True
        elif isinstance(ended, _Row) and isinstance(outer, _Table):
            outer.rows.append(ended)
        elif isinstance(ended, _Flow) and isinstance(outer, _Row):
            self._close_flow(ended)
            outer.cells.append(ended)

    def _close_paragraph(self, ended: _Paragraph) -> None:
        if self._ruby is not None:
            self._end_ruby()
        self._parts = ended.outer
        outer = self._open[-1]
        if ended.joined and isinstance(outer, _Flow):
            outer.held = ended.parts
        else:
            text = "".join(ended.parts).strip()
            level = self._levels.get(ended.style, 0)
            if ended.outline is not None:
                level = min(ended.outline + 1, 6) if ended.outline < 9 else 0
            if text:
                self._add(_Block(" ".join(text.split()) if level else text, level, ended.listed and not level))
        if ended.after:
            self._add(ended.after)

    def _close_flow(self, flow: _Flow) -> None:
        if text := "".join(flow.held).strip():
            flow.nodes.append(_Block(text))
            flow.held = []

    def _close_loose(self) -> None:
        """Add the text outside of any paragraph, for example an equation."""
        if self._loose and self._parts is self._loose:
            text = "".join(self._loose).strip()
            self._loose.clear()
            self._add(_Block(text))

    def _add(self, node: _Node) -> None:
        """Add to the innermost paragraph or flow."""
        self._written += 1
        for outer in reversed(self._open):
            if isinstance(outer, _Paragraph):
                outer.after.append(node)
                return
            if isinstance(outer, _Flow):
                outer.nodes.append(node)
                return

    # Drawings and other parts

    def _begin_alternatives(self, _: Mapping[str, str]) -> None:
        self._open.append(_Alternatives(self._depth, self._written))

    def _begin_alternative(self, _: Mapping[str, str]) -> None:
        top = self._open[-1]
        if isinstance(top, _Alternatives) and self._written > top.written:
            self._skipped = 1
            self._path = []

    def _begin_drawing(self, _: Mapping[str, str]) -> None:
        self._described.clear()

    def _describe(self, attributes: Mapping[str, str]) -> None:
        title, description = _get(attributes, "title"), _get(attributes, "descr") or _get(attributes, "alt")
        text = join_description(title, description)
        if text and text not in self._described:
            self._described.add(text)
            self._add(_Block(text))

    def _write_shape_text(self, attributes: Mapping[str, str]) -> None:
        if text := _get(attributes, "string").strip():
            self._add(_Block(text))

    def _insert_chart(self, attributes: Mapping[str, str]) -> None:
        self._add([_Block(text) for text in self._inserted.read_chart(_get_link(attributes))])

    def _insert_diagram(self, attributes: Mapping[str, str]) -> None:
        self._add(_Block(self._inserted.read_diagram(_get_link(attributes, "dm"))))

    def _insert_file(self, attributes: Mapping[str, str]) -> None:
        """Add the text of a file inside this one: an imported part (altChunk), an embedded workbook."""
        self._add(_Block(self._inserted.read_file(_get_link(attributes))))

    def _warn_control(self, attributes: Mapping[str, str]) -> None:
        """Record a control (ActiveX), whose text only its own program can read."""
        if part := self._inserted.find(_get_link(attributes)):
            self._package.warn("part_unreadable", f"{part}: controls are not read.")

    _STARTS: ClassVar[dict[str, Callable[[_Reader, Mapping[str, str]], None]]] = {
        "p": _begin_paragraph,
        "r": _begin_run,
        "t": _begin_text,
        "tab": lambda self, _: self._write("\t"),
        "ptab": lambda self, _: self._write("\t"),
        "br": lambda self, _: self._write("\n"),
        "cr": lambda self, _: self._write("\n"),
        "noBreakHyphen": lambda self, _: self._write("-"),
        "sym": _write_symbol,
        "rt": _begin_reading,
        "oMath": _begin_equation,
        "fldChar": _mark_field,
        "ffData": _begin_form,
        "checkBox": _set_box,
        "default": _set_default,
        "checked": _set_checked,
        "listEntry": _set_choice,
        "result": _set_result,
        "tbl": _begin_table,
        "tr": _begin_row,
        "tc": _begin_cell,
        "AlternateContent": _begin_alternatives,
        "Choice": _begin_alternative,
        "Fallback": _begin_alternative,
        "drawing": _begin_drawing,
        "pict": _begin_drawing,
        "docPr": _describe,
        "cNvPr": _describe,
        "shape": _describe,
        "rect": _describe,
        "roundrect": _describe,
        "oval": _describe,
        "group": _describe,
        "textpath": _write_shape_text,
        "chart": _insert_chart,
        "relIds": _insert_diagram,
        "altChunk": _insert_file,
        "subDoc": _insert_file,
        "OLEObject": _insert_file,
        "control": _warn_control,
    }
    """What the start of an element does, by its local name; drawings and equations have their own names."""

    _ENDS: ClassVar[dict[str, Callable[[_Reader], None]]] = {
        "rt": _end_reading,
        "ruby": _end_ruby,
        "ffData": _end_form,
    }


def _shown(ended: _Field) -> str:
    """Return what a field without stored text shows: a check box, a choice, the operands of an EQ field."""
    if ended.checked is not None:
        return "☒" if ended.checked else "☐"
    if ended.choices:
        return ended.choices[min(ended.chosen, len(ended.choices) - 1)]
    code = ended.code.strip()
    if code[:3].upper() not in ("EQ ", "EQ\\"):
        return ""
    operands = _FIELD_SWITCH.sub("", code[2:]).strip()
    return operands[1:-1] if operands[:1] == "(" and operands[-1:] == ")" else operands


def _table_nodes(table: _Table) -> Iterator[_Node]:
    """Yield the tables and other blocks of a table: rows with a table inside a cell, and single cells, are blocks."""
    rows: list[list[str]] = []
    has_header: bool | None = None
    kept = [row for row in table.rows if not row.deleted]
    is_layout = max((sum(cell.span for cell in row.cells) for row in kept), default=0) < 2
    for row in kept:
        if is_layout or any(cell.has_table for cell in row.cells):
            yield from _finish(rows, has_header)
            rows, has_header = [], None
            yield from (cell.nodes for cell in row.cells if not cell.deleted)
            continue
        if not rows and row.is_header:
            has_header = True
        texts = [""] * row.before
        for cell in row.cells:
            if not cell.deleted:
                text = " ".join(block.text for block in _flatten(cell.nodes))
                texts += [text, *[""] * (min(cell.span, MOST_CELLS - len(texts)) - 1)]
        rows.append(texts)
    yield from _finish(rows, has_header)


def _finish(rows: list[list[str]], has_header: bool | None) -> Iterator[_Node]:
    if text := render_table(rows, has_header=has_header):
        yield _Block(text)


def _flatten(nodes: list[_Node]) -> Iterator[_Block]:
    """Yield the blocks in order, without blank ones, at any depth."""
    stack = [iter(nodes)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
        elif isinstance(node, list):
            stack.append(iter(node))
        elif node.text:
            yield node
