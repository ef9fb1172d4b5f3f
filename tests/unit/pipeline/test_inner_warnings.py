"""What was left out of a file inside of another one is a warning of the outer file."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable

import pikepdf
import pytest

from ingestion_engine.domain.records import ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus import formats

INNER = b'{"a": "first words"}\n{"a": broken\n{"a": "last words"}\n'
"""One line of three is no JSON."""


def in_mail() -> bytes:
    """Return a mail with the lines as an attachment."""
    mail = formats.build_eml("Subject", ["Hello."], attachment=INNER)
    return mail.replace(b"text/csv", b"application/jsonl").replace(b"table.csv", b"lines.jsonl")


def in_pdf() -> bytes:
    """Return a PDF with the lines as an attachment."""
    pdf = pikepdf.new()
    pdf.add_blank_page()
    pdf.attachments["lines.jsonl"] = pikepdf.AttachedFileSpec(pdf, INNER, filename="lines.jsonl")
    buffer = io.BytesIO()
    pdf.save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("key", "build"),
    [("a.eml", in_mail), ("a.pdf", in_pdf), ("a.jsonl.gz", lambda: gzip.compress(INNER, mtime=0))],
)
def test_warnings_of_inner_files(key: str, build: Callable[[], bytes]) -> None:
    """The lines that are read are text, and the one that is not is counted."""
    body = build()
    ref = ObjectRef("docs", key, "etag", size_bytes=len(body), last_modified="2024-01-02T03:04:06Z")
    document = parse_bytes(RawObject(ref, body, content_type=None, metadata={}), FrozenLimits())
    assert "first words" in document.text
    assert "last words" in document.text
    assert [(warning.code, warning.count) for warning in document.warnings if warning.code == "lines_skipped"] == [
        ("lines_skipped", 1)
    ]
