"""Detect the type of a zip archive or compound file by what is stored in it."""

from __future__ import annotations

import io
import re
import zipfile

from ingestion_engine.pipeline.parsing.kinds import Detected, Kind

ENCRYPTED_OOXML = "application/encrypted-ooxml"
"""A compound file that contains an encrypted Office document; not a registered type."""

_OPEN_DOCUMENT = re.compile(rb"mimetype(application/vnd\.oasis\.opendocument\.[a-z]+)")


def detect_zip(body: bytes) -> Detected:
    """Detect OOXML and EPUB by the names of members, in the directory at the end and before each member."""
    head, tail = body[:65536], body[-262144:]
    if b"mimetypeapplication/epub+zip" in head[:120]:
        return Detected(Kind.EPUB)
    if b"[Content_Types].xml" in head or b"[Content_Types].xml" in tail or b"_rels/.rels" in head:
        for part, kind in ((b"word/", Kind.DOCX), (b"ppt/", Kind.PPTX), (b"xl/", Kind.XLSX)):
            if part in tail or part in head:
                return Detected(kind)
    found = _OPEN_DOCUMENT.search(head[:200])
    return Detected(unsupported=found.group(1).decode() if found else "application/zip")


def is_cut_zip(body: bytes) -> bool:
    """Return whether the directory at the end of a zip archive is missing."""
    return not zipfile.is_zipfile(io.BytesIO(body))


def detect_compound(body: bytes) -> str:
    """Return the type of a Microsoft compound file by the names in its directory (UTF-16)."""
    for name, media_type in (
        ("EncryptedPackage", ENCRYPTED_OOXML),
        ("WordDocument", "application/msword"),
        ("PowerPoint Document", "application/vnd.ms-powerpoint"),
        ("Workbook", "application/vnd.ms-excel"),
        ("__properties_version1.0", "application/vnd.ms-outlook"),
    ):
        if name.encode("utf-16-le") in body:
            return media_type
    return "application/x-ole-storage"
