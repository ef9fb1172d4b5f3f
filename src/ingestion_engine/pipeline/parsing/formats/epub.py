"""EPUB books to text: the chapters in reading order."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from ingestion_engine.domain.records import TextFormat
from ingestion_engine.pipeline.parsing.decode import decode_text
from ingestion_engine.pipeline.parsing.formats.html import read_html
from ingestion_engine.pipeline.parsing.formats.office.package import parse_part
from ingestion_engine.pipeline.parsing.formats.xml import find_encoding
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt


def read_epub(body: bytes, limit: int) -> ParsedText:
    """Return the text of all documents in the book's spine, and the book's title.

    Raises:
        ObjectError: ``corrupt_document``, ``encrypted_document``, ``decompressed_too_large``.
    """
    archive = BoundedZip(body, limit, "EPUB book")
    archive.check()
    container = parse_part(archive, "META-INF/container.xml")
    package_name = next((path for e in container.iter() if (path := e.get("full-path"))), "")
    package = parse_part(archive, package_name)
    items: dict[str, str] = {}
    spine: list[str] = []
    title: str | None = None
    for element in package.iter():
        local = element.tag.rpartition("}")[2]
        if local == "item":
            items[element.get("id", "")] = element.get("href", "")
        elif local == "itemref":
            spine.append(element.get("idref", ""))
        elif local == "title" and title is None:
            title = element.text
    chapters = []
    for reference in spine:
        name = posixpath.normpath(posixpath.join(posixpath.dirname(package_name), unquote(items.get(reference, ""))))
        chapter = archive.read(name)
        try:
            text = decode_text(chapter, declared=find_encoding(chapter))
        except ValueError:
            raise corrupt(archive.what, f"{name} is not text (encrypted or damaged)") from None
        chapters.append(read_html(text).text)
    return ParsedText("\n\n".join(filter(None, chapters)), TextFormat.MARKDOWN, title=title)
