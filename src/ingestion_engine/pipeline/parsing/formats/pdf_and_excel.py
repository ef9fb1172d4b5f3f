"""PDF and Excel files to text through kreuzberg, configured to omit nothing and to run no text recognition (OCR)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.formats.tables import render_rows
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt

if TYPE_CHECKING:
    from kreuzberg import ExtractionResult

_TAIL_BYTES = 64 * 1024
"""End of a PDF that is searched for its end mark; writers and mail gateways append data behind the mark."""


def read_pdf(body: bytes) -> ParsedText:
    """Return the text layer of every page, and the title from the document's information.

    Page texts come from kreuzberg's pages, not from its whole content, which in plain text (4.10) repeats tables that
    it detects and in Markdown drops lines.

    Raises:
        ObjectError: ``corrupt_document``, ``encrypted_document`` or ``parse_failed``.

    Cost: about 2 ms per page; one PDF at a time in a process (a lock in PDFium).
    """
    if b"%%EOF" not in body[-_TAIL_BYTES:] and b"startxref" not in body[-_TAIL_BYTES:]:
        raise corrupt("PDF", "its end is missing")
    result = _extract(body, "application/pdf", what="PDF")
    pages: dict[int, str] = {page["page_number"]: page["content"] for page in result.pages or ()}
    count = max(pages, default=0)
    title = result.metadata.get("title")
    return ParsedText(title=title, pages=tuple(pages.get(number, "") for number in range(1, count + 1)))


def read_xlsx(body: bytes, limit: int) -> ParsedText:
    """Return every sheet, including hidden ones, as a heading and one line per row; see ``render_rows``.

    Cells have their stored values: dates as ISO 8601, formulas as last computed. Raises as ``read_pdf``, and
    ``decompressed_too_large``.
    """
    BoundedZip(body, limit, "Excel workbook").check()
    media_type = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    result = _extract(body, media_type, what="Excel workbook")
    names = result.metadata.get("sheet_names") or []
    blocks = []
    for table in result.tables:
        number = table.page_number
        name = names[number - 1] if 0 < number <= len(names) else f"Sheet {number}"
        rows = "\n".join(render_rows(table.cells))
        if rows:
            blocks.append(f"## {name}\n\n{rows}")
    return ParsedText("\n\n".join(blocks), TextFormat.MARKDOWN, title=result.metadata.get("title"))


def _extract(body: bytes, media_type: str, *, what: str) -> ExtractionResult:
    from kreuzberg import ContentFilterConfig, ExtractionConfig, PageConfig, extract_bytes_sync

    config = ExtractionConfig(
        use_cache=False,
        enable_quality_processing=False,
        output_format="plain",
        pages=PageConfig(extract_pages=True),
        content_filter=ContentFilterConfig(
            include_headers=True, include_footers=True, strip_repeating_text=False, include_watermarks=True
        ),
    )
    config.disable_ocr = True  # type: ignore[attr-defined]  # missing in the stub of 4.10
    with _kreuzberg_errors(what):
        return extract_bytes_sync(body, media_type, config)


@contextmanager
def _kreuzberg_errors(what: str) -> Iterator[None]:
    """Raise kreuzberg's errors as the product's. Only the text shows encryption (4.10: "PDF is password-protected")."""
    from kreuzberg import KreuzbergError, ParsingError

    try:
        yield
    except ParsingError as error:
        message = str(error)
        if "password" in message or "encrypted" in message.lower():
            raise ObjectError("encrypted_document", f"The {what} is encrypted with a password.", kind=what) from error
        raise corrupt(what, message[:200]) from error
    except KreuzbergError as error:
        raise ObjectError("parse_failed", f"The {what} cannot be parsed: {str(error)[:200]}", kind=what) from error
