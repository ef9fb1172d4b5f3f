"""Detect the type of a zip archive or compound file by what is stored in it."""

from __future__ import annotations

import io
import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.compound import CompoundFile
from ingestion_engine.pipeline.parsing.kinds import Detected, Kind
from ingestion_engine.pipeline.parsing.unpack import ZIP_ERRORS, list_members, open_zip

ENCRYPTED_OOXML = "application/encrypted-ooxml"
"""A compound file that contains an encrypted Office document; not a registered type."""

_PEEK_BYTES = 1024 * 1024
"""Unpacked bytes of a member that detection reads at most."""

_WALKED_BYTES = 262_144
"""Bytes at the beginning of an archive without a directory that detection reads."""

_ZIP = "application/zip"
_XLSB = "application/vnd.ms-excel.sheet.binary.macroenabled.12"
_VISIO = "application/vnd.ms-visio.drawing"

_CONTENT_TYPES: tuple[tuple[re.Pattern[str], Kind | str], ...] = (
    (re.compile(r"/vnd\.ms-excel\.sheet\.binary"), _XLSB),
    (re.compile(r"\.wordprocessingml\.[a-z]+\.main|/vnd\.ms-word\."), Kind.DOCX),
    (re.compile(r"\.presentationml\.[a-z]+\.main|/vnd\.ms-powerpoint\."), Kind.PPTX),
    (re.compile(r"\.spreadsheetml\.[a-z]+\.main|/vnd\.ms-excel\."), Kind.XLSX),
    (re.compile(r"/vnd\.ms-visio\."), _VISIO),
    (re.compile(r"\.thememanager\+xml"), "application/vnd.ms-officetheme"),
)
"""Content types of main parts, in lower case (ECMA-376 part 1 chapters 11 to 13, MS-OFFMACRO2, MS-XLSB, MS-VSDX)."""

_ROOTS = {"document": Kind.DOCX, "presentation": Kind.PPTX, "workbook": Kind.XLSX}
_ROOT = re.compile(rb"<(?:[\w.-]+:)?(document|presentation|workbook)[\s>/]")
"""The root element of a main part, for files with a wrong content type."""

_PACKAGES = {
    "http://schemas.microsoft.com/xps/2005/06/fixedrepresentation": "application/vnd.ms-xpsdocument",
    "http://schemas.openxps.org/oxps/v1.0/fixedrepresentation": "application/oxps",
    "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel": "model/3mf",
    "http://schemas.microsoft.com/visio/2010/relationships/document": _VISIO,
}
"""Relations of packages that are no Office files."""

_PARTS: tuple[tuple[str, Kind | str], ...] = (
    ("xl/workbook.bin", _XLSB),
    ("word/", Kind.DOCX),
    ("ppt/", Kind.PPTX),
    ("xl/", Kind.XLSX),
    ("visio/", _VISIO),
)
"""Beginnings of the usual names of parts, for packages without their relations."""

_MEMBERS: tuple[tuple[str, str, str], ...] = (
    ("AndroidManifest.xml", "", "application/vnd.android.package-archive"),
    ("Index/Slide", ".iwa", "application/vnd.apple.keynote"),
    ("Index/MasterSlide", ".iwa", "application/vnd.apple.keynote"),
    ("index.apxl", "", "application/vnd.apple.keynote"),
    ("Index/Document.iwa", "", "application/vnd.apple.iwork"),
    ("Index.zip", "", "application/vnd.apple.iwork"),
    ("doc.kml", "", "application/vnd.google-earth.kmz"),
    ("META-INF/MANIFEST.MF", "", "application/java-archive"),
)
"""(beginning, end, media type) of members that only one format has; Pages and Numbers cannot be told apart by names."""

_MIMETYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*")

_Peek = Callable[[str], bytes]
"""Returns the beginning of a member; empty for one that is damaged or missing."""


def detect_zip(body: bytes) -> Detected:
    """Return the type of a zip archive by its directory; by the members at its beginning if that is missing. Pure.

    What members contain does not count, so that an Office file with another one inside is what it is. A kind for an
    archive without directory does not mean that it can be read.

    Cost: reads the directory and at most four small members.
    """
    try:
        archive = open_zip(body, "zip archive")
    except ObjectError:
        begun = dict(_walk(body[:_WALKED_BYTES]))
        return _classify(list(begun), lambda name: begun.get(name, b""))
    with archive:
        members = list_members(archive)
        return _classify(list(members), partial(_peek, archive, members))


def is_cut_zip(body: bytes) -> bool:
    """Return whether the directory at the end of a zip archive is missing."""
    return not zipfile.is_zipfile(io.BytesIO(body))


def _peek(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> bytes:
    try:
        with archive.open(members[name]) as member:
            return member.read(_PEEK_BYTES)
    except (KeyError, *ZIP_ERRORS):
        return b""


def _walk(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and beginning of each member from the start of an archive, also of one that is cut or streamed."""
    at = body.find(b"PK\x03\x04")
    while body[at : at + 4] == b"PK\x03\x04" and len(body) >= at + 30:
        flags, method = struct.unpack_from("<HH", body, at + 6)
        packed, name_size, extra_size = struct.unpack_from("<I4xHH", body, at + 18)
        start = at + 30 + name_size + extra_size
        name = body[at + 30 : at + 30 + name_size].decode("utf-8", "replace").replace("\\", "/")
        known = not flags & 8 and packed != 0xFFFFFFFF
        data = body[start : start + packed] if known else body[start:]
        content, used = _inflate(data) if method == zipfile.ZIP_DEFLATED else (data[:_PEEK_BYTES], 0)
        yield name, content
        at = start + packed if known else body.find(b"PK\x03\x04", start + used)
        if at < 0:
            return


def _inflate(data: bytes) -> tuple[bytes, int]:
    """Return the beginning of a deflated member, and how many bytes of ``data`` certainly belong to it."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(data, _PEEK_BYTES)
    except zlib.error:
        return b"", 0
    return content, len(data) - len(stream.unused_data) - len(stream.unconsumed_tail)


def _classify(names: list[str], peek: _Peek) -> Detected:
    """Return the type of an archive by the names of its members, and what of them can be read."""
    stored = {name.lower(): name for name in reversed(names)}
    declared = peek(stored.get("mimetype", ""))[:256].decode("latin-1").strip().lower()
    container = stored.get("meta-inf/container.xml")
    if declared == Kind.EPUB or (container and b"rootfile" in peek(container).replace(b"\0", b"")):
        return Detected(Kind.EPUB)
    if _MIMETYPE.fullmatch(declared):
        return Detected(unsupported=declared)
    if "[content_types].xml" in stored or "_rels/.rels" in stored:
        found = _find_package(stored, peek)
        return Detected(found) if isinstance(found, Kind) else Detected(unsupported=found)
    for start, end, media_type in _MEMBERS:
        if any(name.startswith(start) and name.endswith(end) for name in names):
            return Detected(unsupported=media_type)
    return Detected(Kind.EPUB) if any(name.endswith(".opf") for name in stored) else Detected(unsupported=_ZIP)


def _find_package(stored: dict[str, str], peek: _Peek) -> Kind | str:
    """Return the kind or media type of an OPC package (Office file, XPS) by its first relation to a main part."""
    for relation in _children(peek(stored.get("_rels/.rels", ""))):
        address = relation.get("Type", "")
        if address in _PACKAGES:
            return _PACKAGES[address]
        if not address.endswith("/officeDocument"):
            continue
        target = unquote(relation.get("Target", "")).replace("\\", "/")
        part = posixpath.normpath(posixpath.join("/", target)).lstrip("/").lower()
        media_type = _content_type(part, _children(peek(stored.get("[content_types].xml", ""))))
        found = next((kind for pattern, kind in _CONTENT_TYPES if pattern.search(media_type)), None)
        root = _ROOT.search(peek(stored.get(part, ""))[:4096].replace(b"\0", b""))
        if found is None and root is not None:
            found = _ROOTS[root[1].decode()]
        if found is not None:
            return found
    return next((kind for start, kind in _PARTS if any(name.startswith(start) for name in stored)), _ZIP)


def _content_type(part: str, entries: Iterable[ET.Element]) -> str:
    """Return the content type of a part in lower case, by its name or its suffix; empty if unknown."""
    suffix = posixpath.splitext(part)[1][1:]
    by_suffix = ""
    for entry in entries:
        media_type = entry.get("ContentType", "").lower()
        if unquote(entry.get("PartName", "")).lstrip("/").lower() == part:
            return media_type
        if entry.get("Extension", "").lower() == suffix:
            by_suffix = media_type
    return by_suffix


def _children(part: bytes) -> list[ET.Element]:
    try:
        return list(ET.fromstring(part))  # noqa: S314 - expat bounds entity expansion and fetches nothing
    except (ET.ParseError, LookupError, ValueError):
        return []


def detect_compound(body: bytes) -> str:
    """Return the type of a Microsoft compound file by the streams in its root.

    Of a damaged file, or its beginning, the names anywhere in the bytes decide.
    """
    try:
        root = CompoundFile(body)
        found = [media_type for name, media_type in _STREAMS if name in root]
    except (ValueError, struct.error):
        found = [media_type for name, media_type in _STREAMS if name.encode("utf-16-le") in body]
    return found[0] if found else "application/x-ole-storage"


_STREAMS = (
    ("EncryptedPackage", ENCRYPTED_OOXML),
    ("WordDocument", "application/msword"),
    ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ("Workbook", "application/vnd.ms-excel"),
    ("Book", "application/vnd.ms-excel"),
    ("VisioDocument", "application/vnd.visio"),
    ("Quill", "application/vnd.ms-publisher"),
    ("__properties_version1.0", "application/vnd.ms-outlook"),
)
"""(stream or storage in the root, media type); "Book" is that of Excel 5 and 95."""

HINTS = {
    "application/msword": "Save the document as .docx.",
    "application/vnd.ms-powerpoint": "Save the presentation as .pptx.",
    "application/vnd.ms-excel": "Save the workbook as .xlsx.",
    _XLSB: "Save the workbook as .xlsx.",
    "application/vnd.ms-outlook": "Save the message as .eml.",
    "application/vnd.oasis.opendocument.text": "Save the document as .docx.",
    "application/vnd.oasis.opendocument.spreadsheet": "Save the spreadsheet as .xlsx.",
    "application/vnd.oasis.opendocument.presentation": "Save the presentation as .pptx.",
    "application/vnd.apple.keynote": "Export the presentation as .pptx.",
    "application/vnd.apple.iwork": "Export the document as .docx or .xlsx.",
    "application/vnd.visio": "Export the drawing as PDF.",
    _VISIO: "Export the drawing as PDF.",
    "application/vnd.ms-xpsdocument": "Print the document to PDF.",
    "application/oxps": "Print the document to PDF.",
}
"""What to do about a type without a reader, where another program can turn it into one that has one."""
