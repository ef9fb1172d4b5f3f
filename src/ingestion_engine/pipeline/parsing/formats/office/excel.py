"""Excel files (XLSX) to text."""

from __future__ import annotations

from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.formats.kreuzberg_text import extract
from ingestion_engine.pipeline.parsing.formats.tables import render_rows
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import BoundedZip


def read_xlsx(body: bytes, limit: int) -> ParsedText:
    """Return every sheet, including hidden ones, as a heading and one line per row; see ``render_rows``.

    Cells have their stored values: dates as ISO 8601, formulas as last computed. Raises as ``read_pdf``, and
    ``decompressed_too_large``.
    """
    BoundedZip(body, limit, "Excel workbook").check()
    media_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    result = extract(body, media_type, what="Excel workbook")
    names = result.metadata.get("sheet_names") or []
    blocks = []
    for table in result.tables:
        number = table.page_number
        name = names[number - 1] if 0 < number <= len(names) else f"Sheet {number}"
        rows = "\n".join(render_rows(table.cells))
        if rows:
            blocks.append(f"## {name}\n\n{rows}")
    return ParsedText("\n\n".join(blocks), TextFormat.MARKDOWN, title=result.metadata.get("title"))
