"""Which format a file has: marks count where no text has them, and names where the content leaves a choice."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus.pdf import build_pdf


def read(key: str, body: bytes, content_type: str | None = None) -> Document:
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    return parse_bytes(RawObject(ref, body, content_type, {}), FrozenLimits())


@pytest.mark.parametrize(
    "start",
    [
        "%PDF- is the mark of a PDF",
        "%PDF-1.7 begins a file",
        "A file begins with %PDF-1.4\n",
        "```\n%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\nxref\n```\n",
        "Größe: %PDF-1.7\n%äöüß\n",
        "the ftyp box",
        "GIF89a is older than PNG",
        "GIF87a",
        "8BPS begins Photoshop files",
        "BM is the mark of a bitmap",
        "MZ are Mark Zbikowski's initials",
        "PK are Phil Katz's initials",
        "ID3 tags name the artist",
        "RIFF....WEBP and RIFF....WAVE",
        "FLV, OggS and fLaC",
        "Obj, ORC, PAR1 and ARROW1",
        "ustar".rjust(262),
        "SQLite format 3",
        "Rar! and 7z",
        "{\\rtf1 is the mark of Rich Text",
    ],
)
@pytest.mark.parametrize("key", ["a.txt", "a.md", "a.py", "noname", "a.pdf"])
def test_a_text_may_mention_any_mark(start: str, key: str) -> None:
    """Also at its beginning, in Latin-1, and under the name of a PDF, except where whole objects of a PDF follow."""
    body = (start + "\nMore words about formats of files.\n" * 30).encode("latin-1")
    if key == "a.pdf" and " obj" in start:
        return
    assert "More words about formats" in read(key, body).text


@pytest.mark.parametrize(
    ("mark", "media_type"),
    [
        (b"GIF89a\x01\x00\x01\x00", "image/gif"),
        (b"\0\0\0\x18ftypmp42", "video/mp4"),
        (b"BM" + (70).to_bytes(4, "little") + bytes(4) + b"6\0\0\0", "image/bmp"),
        (b"MZ\x90\0\x03", "application/vnd.microsoft.portable-executable"),
        (b"ID3\x03\0\0", "audio/mpeg"),
        (b"PAR1\x15\x04", "application/vnd.apache.parquet"),
        (b"name.txt".ljust(257, b"\0") + b"ustar\x0000", "application/x-tar"),
        (b"n" * 100 + b"0000644\0".ljust(157, b"\0") + b"ustar\x0000", "application/x-tar"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav"),
    ],
)
def test_binary_files_have_their_type(mark: bytes, media_type: str) -> None:
    """The mark and bytes that no text has."""
    with pytest.raises(ObjectError) as caught:
        read("noname", mark + b"words " * 50)
    assert caught.value.code == "unsupported_type"
    assert caught.value.context["content_type"] == media_type


PDF = build_pdf(None, [["Words on a page."]])


@pytest.mark.parametrize(
    "before",
    [b"", b"\xef\xbb\xbf", b"\n\n", b"\x1b%-12345X@PJL ENTER LANGUAGE=PDF\r\n", bytes(100),
     b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["a.pdf", "noname"])
def test_a_pdf_may_begin_later(before: bytes, key: str) -> None:
    """Behind blank lines, commands for a printer, bytes of any kind and the headers of HTTP."""
    document = read(key, before + PDF)
    assert (document.content_type, document.text) == ("application/pdf", "Words on a page.")


def test_a_file_named_pdf_without_objects_is_damaged() -> None:
    """A header alone on its line is no text."""
    with pytest.raises(ObjectError) as caught:
        read("a.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    assert caught.value.code == "corrupt_document"


@pytest.mark.parametrize(
    ("key", "declared", "body", "content_type"),
    [
        ("page.php", None, "<!doctype html><html><?php echo 1 ?></html>", "text/plain"),
        ("page.jsp", None, "<html><%= user.name() %></html>", "text/plain"),
        ("part.vue", None, "<template><p>Hello</p></template>", "text/plain"),
        ("a.py", None, "{'a': 1}\n{'b': 2}", "text/plain"),
        ("a.yaml", None, '{"a": 1}', "text/plain"),
        ("a.html.j2", None, "<html>{{ words }}</html>", "text/plain"),
        ("a", "TEXT/CSS; charset=utf-8", "html { color: red }", "text/plain"),
        ("tags.txt", None, "<html> is the first tag of a page, <body> the second.", "text/plain"),
        ("tags.md", None, "<body> holds all text.\n\n# More", "text/markdown"),
        ("saved.txt", None, "<!DOCTYPE html>\n<html><head><title>T</title></head><p>Words", "text/html"),
        ("logo.svg", None, "<svg xmlns='http://www.w3.org/2000/svg'><text>Words</text></svg>", "application/xml"),
        ("a.html", None, "Caf&eacute; &amp; bar", "text/html"),
        ("a.xhtml", None, "<?xml version='1.0'?><html xmlns='x'><p>Words</p></html>", "text/html"),
        ("a", "Application/LD+JSON; profile=x", '{"a": 1}', "application/json"),
        ("a", "application/atom+xml", "<feed><title>T</title></feed>", "application/xml"),
        ("a", "Application/X-NDJSON", '{"a": 1}\n{"a": 2}', "application/x-ndjson"),
        ("a.json", None, "These are words and no JSON.", "text/plain"),
        ("app.log", None, '{"a": 1}\n{"a": 2}\n', "application/x-ndjson"),
    ],
)
def test_names_and_declared_types(key: str, declared: str | None, body: str, content_type: str) -> None:
    """Source code is text whatever it begins with; media types count without case, parameters and by their syntax."""
    assert read(key, body.encode(), declared).content_type == content_type
