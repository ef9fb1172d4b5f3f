"""Excel workbooks (XLSX) to text."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree as ET

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ReadWarning, TextFormat
from ingestion_engine.pipeline.parsing.formats.office.excel.drawings import read_comments, read_drawings
from ingestion_engine.pipeline.parsing.formats.office.excel.numbers import NumberFormat, make_format
from ingestion_engine.pipeline.parsing.formats.office.excel.sheet import (
    DamagedSheetError,
    SheetReader,
    Styles,
    UnorderedRowsError,
    read_strings,
    show_note,
)
from ingestion_engine.pipeline.parsing.formats.office.package import Package, find_child, get_attribute
from ingestion_engine.pipeline.parsing.formats.tables import render_cells
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.pieces import Growth, join_lines
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt


def read_xlsx(body: bytes, limit: int) -> ParsedText:
    """Return every sheet, including hidden ones, as a heading and one line per row; see ``render_cells``.

    Numbers, percentages and dates are as a person sees them, formulas as last computed or else as written. Texts beside
    the cells follow the rows: text boxes, charts, comments, headers and footers.

    Raises:
        ObjectError: ``corrupt_document`` when a sheet cannot be read, ``encrypted_document``,
            ``decompressed_too_large``.

    Cost: about 1 s per 300,000 cells; memory of the strings and the text, not of the cells.
    """
    package = Package(BoundedZip(body, limit, "Excel workbook"), "xl/workbook.xml")
    workbook = package.parse(package.main)
    growth = Growth()
    styles = Styles(_read_strings(package, growth), _read_formats(package, workbook))
    blocks = [_read_sheet(package, sheet, styles, growth=growth) for sheet in _children(workbook, "sheets")]
    title = package.read_title()
    warnings = package.finish()
    return ParsedText("\n\n".join(filter(None, blocks)), TextFormat.MARKDOWN, title=title, warnings=warnings)


def _read_strings(package: Package, growth: Growth) -> list[str]:
    strings: list[str] = []
    for part in package.targets(package.main, "sharedStrings"):
        try:
            strings += read_strings(growth.count(package.archive.pieces(part)))
        except DamagedSheetError as error:
            raise corrupt(package.archive.what, f"the strings of all sheets in {part}: {error}") from error
    return strings


def _read_formats(package: Package, workbook: ET.Element) -> list[NumberFormat]:
    """Return the number formats that cells refer to; none, with a warning, if they cannot be read."""
    since_1904 = get_attribute(find_child(workbook, "workbookPr"), "date1904") in ("1", "true", "on")
    formats: list[NumberFormat] = []
    for part in package.targets(package.main, "styles"):
        root = package.try_parse(part)
        codes = {entry.get("numFmtId", ""): entry.get("formatCode", "") for entry in _children(root, "numFmts")}
        for style in _children(root, "cellXfs"):
            number = style.get("numFmtId", "0")
            known = int(number) if number.isdecimal() and len(number) < 6 else 0
            formats.append(make_format(known, codes.get(number), since_1904=since_1904))
    return formats


def _children(root: ET.Element | None, name: str) -> Iterable[ET.Element]:
    found = find_child(root, name)
    return found if found is not None else ()


def _read_sheet(package: Package, sheet: ET.Element, styles: Styles, *, growth: Growth) -> str:
    """Return the text of a sheet, beginning with its name; empty for a sheet without text."""
    name = " ".join((sheet.get("name") or "").split()) or "Sheet"
    link = get_attribute(sheet, "id")
    if not link:
        detail = f"Sheet '{name}' is listed without a part; it has no content."
        package.warnings.append(ReadWarning("part_unreadable", detail=detail))
        return ""
    relation = package.relations(package.main).get(link)
    if relation is None or relation.external or package.archive.find(relation.target) is None:
        missing = relation.target if relation is not None else "its part"
        raise corrupt(package.archive.what, f"sheet '{name}' cannot be read: {missing} is missing")
    part = relation.target
    if "macrosheet" in relation.kind.lower():
        detail = f"Sheet '{name}' is a macro sheet: code, not text."
        package.warnings.append(ReadWarning("part_unreadable", detail=detail))
        return ""
    reader = SheetReader(styles)
    try:
        rows = _read_rows(package, part, reader, growth=growth)
    except DamagedSheetError as error:
        raise corrupt(package.archive.what, f"sheet '{name}' in {part}: {error}") from error
    except ObjectError as error:
        if error.code != "corrupt_document":
            raise
        raise corrupt(package.archive.what, f"sheet '{name}' cannot be read: {error}") from error
    notes = dict.fromkeys(map(show_note, reader.notes))
    blocks = filter(None, [rows, *read_drawings(package, part), *read_comments(package, part), *notes])
    text = "\n\n".join(blocks)
    return f"## {name}\n\n{text}" if text else ""


def _read_rows(package: Package, part: str, reader: SheetReader, *, growth: Growth) -> str:
    """Return the rows of a sheet, one per line. Cost: for sheets with rows in any order, memory of all cells."""
    for rows in (reader.rows, reader.sorted_rows):
        pieces = growth.count(package.archive.pieces(part))
        try:
            return "".join(growth.limit(join_lines(render_cells(rows(pieces)))))
        except UnorderedRowsError:
            continue
    return ""
