"""PDF files to text."""

from __future__ import annotations

from ingestion_engine.pipeline.parsing.formats.kreuzberg_text import extract
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import corrupt

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
    result = extract(body, "application/pdf", what="PDF")
    pages: dict[int, str] = {page["page_number"]: page["content"] for page in result.pages or ()}
    count = max(pages, default=0)
    title = result.metadata.get("title")
    return ParsedText(title=title, pages=tuple(pages.get(number, "") for number in range(1, count + 1)))
