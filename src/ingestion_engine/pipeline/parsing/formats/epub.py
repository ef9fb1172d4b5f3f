"""EPUB books to text: the chapters in reading order."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ReadWarning, TextFormat
from ingestion_engine.pipeline.parsing.decode import NotTextError, decode_text
from ingestion_engine.pipeline.parsing.formats.html import find_charset, read_html
from ingestion_engine.pipeline.parsing.formats.office.package import local_name, parse_part
from ingestion_engine.pipeline.parsing.formats.xml import find_encoding
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.unpack import BoundedZip, corrupt

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_FONT_METHODS = frozenset({"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"})
"""Methods that only disguise fonts; whoever has the book can read its text (EPUB 3.3, 4.2.6)."""

_PAGES = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"})
_MEDIA = ("image/", "audio/", "video/", "font/")
_SVG = "image/svg+xml"

_DOCTYPE = re.compile(r"<!DOCTYPE[^\[>]*+(?:\[([^\]]*+)\]\s*+)?>", re.IGNORECASE)
_ENTITY = re.compile(r"""<!ENTITY\s++([\w.-]++)\s++(?:"([^"%&<]{0,200})"|'([^'%&<]{0,200})')\s*+>""")
_REFERENCE = re.compile(r"&([\w.-]++);")
_HEAD_CHARS = 65_536


@dataclass(frozen=True, slots=True)
class _Item:
    """A file that the book lists."""

    name: str
    """Path in the archive."""
    media_type: str = ""
    fallback: str = ""
    """Id of the item to read instead of one that is no page."""
    is_navigation: bool = False


@dataclass(slots=True)
class _Book:
    title: str | None = None
    items: dict[str, _Item] = field(default_factory=dict)
    spine: list[str] = field(default_factory=list)
    """Ids of items in reading order."""


def read_epub(body: bytes, limit: int) -> ParsedText:
    """Return the text of all documents in the book's reading order, each once, and the book's title.

    Pages that the book lists outside of it follow, except its table of contents. A chapter that is missing or damaged
    is a warning, unless no other has any text.

    Raises:
        ObjectError: ``corrupt_document``, ``encrypted_document``, ``decompressed_too_large``.
    """
    archive = BoundedZip(body, limit, "EPUB book")
    book = _read_package(archive)
    warnings: list[ReadWarning] = []
    encrypted = _read_encrypted(archive, warnings)
    chapters: list[str] = []
    for item in {item.name: item for item in _list_chapters(book, warnings)}.values():
        if item.name in encrypted:
            raise ObjectError("encrypted_document", "The EPUB book is encrypted.", kind=archive.what)
        try:
            chapter = _read_chapter(archive, item)
        except (ObjectError, NotTextError) as error:
            if isinstance(error, ObjectError) and error.code == "decompressed_too_large":
                raise
            reason = str(error) if isinstance(error, ObjectError) else f"{item.name} is not text."
            warnings.append(ReadWarning("part_unreadable", detail=reason))
            continue
        chapters.append(chapter.text)
        warnings += chapter.warnings
    text = "\n\n".join(filter(None, chapters))
    if not text and warnings:
        raise corrupt(archive.what, f"no chapter can be read; {warnings[0].detail}")
    warnings += archive.check()
    return ParsedText(text, TextFormat.MARKDOWN, title=book.title, warnings=tuple(warnings))


def _read_package(archive: BoundedZip) -> _Book:
    """Return what the book's package lists: of the first rendition that exists, as reading systems choose."""
    container = parse_part(archive, _CONTAINER)
    paths = [path.lstrip("/") for e in container.iter() if local_name(e) == "rootfile" and (path := e.get("full-path"))]
    path = next((path for path in paths if archive.find(path)), paths[0] if paths else "")
    if not path:
        raise corrupt(archive.what, f"{_CONTAINER} names no package")
    book = _Book()
    folder = posixpath.dirname(path)
    for element in parse_part(archive, path).iter():
        name = local_name(element)
        if name == "item":
            book.items.setdefault(element.get("id", ""), _make_item(archive, folder, element))
        elif name == "itemref":
            book.spine.append(element.get("idref", ""))
        elif name == "title" and book.title is None:
            book.title = element.text
    return book


def _make_item(archive: BoundedZip, folder: str, element: ET.Element) -> _Item:
    href = element.get("href", "").replace("\\", "/").partition("#")[0]
    paths = [posixpath.normpath(posixpath.join("/", folder, name)).lstrip("/") for name in (unquote(href), href)]
    return _Item(
        name=next((found for path in paths if (found := archive.find(path))), paths[0]),
        media_type=element.get("media-type", "").partition(";")[0].strip().lower(),
        fallback=element.get("fallback", ""),
        is_navigation="nav" in element.get("properties", "").split(),
    )


def _list_chapters(book: _Book, warnings: list[ReadWarning]) -> Iterator[_Item]:
    """Yield the items of the reading order, then all other pages; items that are no pages by what replaces them."""
    for reference in book.spine:
        item = book.items.get(reference)
        if item is None:
            detail = f"The reading order refers to '{reference}', which the book does not list."
            warnings.append(ReadWarning("part_unreadable", detail=detail))
            continue
        replaced = {reference}
        while item.media_type not in _PAGES and item.fallback in book.items and item.fallback not in replaced:
            replaced.add(item.fallback)
            item = book.items[item.fallback]
        yield item
    for item in book.items.values():
        if item.media_type in _PAGES and not item.is_navigation:
            yield item


def _read_chapter(archive: BoundedZip, item: _Item) -> ParsedText:
    """Return the text of an item; empty for pictures, sounds and films.

    Raises:
        NotTextError: it is neither text nor any of these.
        ObjectError: it is missing or damaged.
    """
    if item.media_type.startswith(_MEDIA) and item.media_type != _SVG:
        return ParsedText()
    body = archive.read(item.name)
    text = decode_text(body, declared=find_encoding(body) or find_charset(body))
    if item.media_type == "text/plain":
        return ParsedText(text.strip())
    text = _expand_entities(text)
    return ParsedText(_read_svg(text)) if item.media_type == _SVG else read_html(text)


def _expand_entities(text: str) -> str:
    """Return a page without its document type, with the texts that it abbreviates there."""
    at = text[:_HEAD_CHARS].upper().find("<!DOCTYPE")
    found = _DOCTYPE.match(text[at : at + _HEAD_CHARS]) if at >= 0 else None
    if found is None:
        return text
    entities = {name: one or other for name, one, other in _ENTITY.findall(found[1] or "")}
    rest = text[at + found.end() :]
    if entities:
        rest = _REFERENCE.sub(lambda reference: entities.get(reference[1], reference.group()), rest)
    return text[:at] + rest


def _read_svg(text: str) -> str:
    """Return the texts of a drawing, one per line. Raises ObjectError: ``corrupt_document``."""
    try:
        root = ET.fromstring(text)  # noqa: S314 - expat bounds entity expansion and fetches nothing
    except ET.ParseError as error:
        raise corrupt("drawing", str(error)) from error
    lines = (" ".join("".join(e.itertext()).split()) for e in root.iter() if local_name(e) in ("text", "title", "desc"))
    return "\n\n".join(filter(None, lines))


def _read_encrypted(archive: BoundedZip, warnings: list[ReadWarning]) -> frozenset[str]:
    """Return the names of the members that only their owner can read."""
    if archive.find(_ENCRYPTION) is None:
        return frozenset()
    try:
        root = parse_part(archive, _ENCRYPTION)
    except ObjectError as error:
        if error.code == "decompressed_too_large":
            raise
        warnings.append(ReadWarning("part_unreadable", detail=str(error)))
        return frozenset()
    names: set[str] = set()
    for data in root.iter():
        if local_name(data) != "EncryptedData":
            continue
        methods = {child.get("Algorithm") for child in data if local_name(child) == "EncryptionMethod"}
        if methods and methods <= _FONT_METHODS:
            continue
        for reference in data.iter():
            if local_name(reference) == "CipherReference" and (address := reference.get("URI")):
                path = unquote(address).lstrip("/")
                names.add(archive.find(path) or path)
    return frozenset(names)
