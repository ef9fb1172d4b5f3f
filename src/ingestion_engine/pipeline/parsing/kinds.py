"""Formats that have a reader, and what the bytes of a file prove about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Formats with a reader."""

    TEXT = "text/plain"
    SOURCE = "text/x-source"
    """Programs, templates, markup other than Markdown, subtitles: a name only. Their content is text, read as
    ``TEXT``, whatever it begins with."""
    MARKDOWN = "text/markdown"
    HTML = "text/html"
    CSV = "text/csv"
    JSON = "application/json"
    JSONL = "application/x-ndjson"
    NOTEBOOK = "application/x-ipynb+json"
    XML = "application/xml"
    EMAIL = "message/rfc822"
    RTF = "application/rtf"
    PDF = "application/pdf"
    DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
    XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    EPUB = "application/epub+zip"


MARKED = frozenset({Kind.PDF, Kind.DOCX, Kind.PPTX, Kind.XLSX, Kind.EPUB, Kind.RTF})
"""Formats that their first bytes always identify; a file with such a name but without these bytes is another format."""

ZIPPED = frozenset({Kind.DOCX, Kind.PPTX, Kind.XLSX, Kind.EPUB})
"""Formats that are zip archives."""


@dataclass(frozen=True, slots=True)
class Detected:
    """The type of a file by its bytes. At most one field is set; none for bytes of no known type, possibly text."""

    kind: Kind | None = None
    unsupported: str | None = None
    """Media type of a known format without a reader."""
