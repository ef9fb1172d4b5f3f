"""Cases of zip packages: Word, Excel and EPUB."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import openpyxl

from support.reading_cases.case import ReadingCase

_CONTENT_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_PACKAGE_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_WORD_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
_PICTURE = bytes(range(256)) * 12
"""Bytes of no format; they need not be a picture to be damaged."""


def pack(parts: Mapping[str, str | bytes], *, stored: frozenset[str] = frozenset()) -> bytes:
    """Return a zip archive of the parts, in order; those of ``stored`` are not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data, zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def build_word(
    body: str,
    extra: Mapping[str, str | bytes] | None = None,
    *,
    relations: str = "",
    main: str = "word/document.xml",
    stored: frozenset[str] = frozenset(),
) -> bytes:
    """Return a Word document whose main part has the given body."""
    folder, name = main.rsplit("/", 1)
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": f'<Types xmlns="{_CONTENT_TYPES}">'
        '<Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/{main}" ContentType="{_WORD_TYPE}"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{_PACKAGE_RELATIONS}">'
        f'<Relationship Id="r1" Type="{_RELATIONS}/officeDocument" Target="{main}"/></Relationships>',
        main: f'<w:document xmlns:w="{_WORD}" xmlns:r="{_RELATIONS}"><w:body>{body}</w:body></w:document>',
        f"{folder}/_rels/{name}.rels": f'<Relationships xmlns="{_PACKAGE_RELATIONS}">{relations}</Relationships>',
    }
    return pack(parts | dict(extra or {}), stored=stored)


def _paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def _cell(text: str) -> str:
    return f"<w:tc>{_paragraph(text)}</w:tc>"


def _damaged_picture() -> bytes:
    name = "word/media/image1.png"
    whole = build_word(_paragraph("Words beside a picture"), {name: _PICTURE}, stored=frozenset({name}))
    at = whole.find(name.encode()) + 500
    return whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]


WORD = (
    ReadingCase(
        key="f12_rows_lost.docx",
        body=build_word(
            _paragraph("Intro")
            + f"<w:tbl><w:tr>{_cell('Head')}</w:tr><w:sdt><w:sdtPr/><w:sdtContent>"
            + f"<w:tr>{_cell('row in a content control')}</w:tr></w:sdtContent></w:sdt>"
            + f"<w:ins><w:tr>{_cell('row in an insertion')}</w:tr></w:ins></w:tbl>"
        ),
        contains=("Intro", "Head", "row in a content control", "row in an insertion"),
    ),
    ReadingCase(
        key="f12_nested_doubled.docx",
        body=build_word(
            f"<w:tbl><w:tr><w:tc>{_paragraph('outer')}<w:tbl><w:tr>{_cell('inner')}</w:tr></w:tbl>"
            f"{_paragraph('end')}</w:tc></w:tr></w:tbl>"
        ),
        contains=("outer", "inner", "end"),
        once=("outer", "inner", "end"),
    ),
    ReadingCase(
        key="f12_document2.docx",
        body=build_word(_paragraph("Saved by Office 365"), main="word/document2.xml"),
        contains=("Saved by Office 365",),
    ),
    ReadingCase(
        key="f12_altchunk.docx",
        body=build_word(
            _paragraph("Shell") + '<w:altChunk r:id="h"/>',
            {"word/c.html": "<html><body><p>The whole report</p></body></html>"},
            relations=f'<Relationship Id="h" Type="{_RELATIONS}/aFChunk" Target="c.html"/>',
        ),
        contains=("Shell", "The whole report"),
        lacks=("<p>",),
    ),
    ReadingCase(key="f12_damaged_picture.docx", body=_damaged_picture(), contains=("Words beside a picture",)),
)


def _orders() -> bytes:
    """Return a workbook with 500 rows, one stray cell in the last row of the sheet, and another sheet."""
    book = openpyxl.Workbook()
    orders = book.active
    orders.title = "Orders"
    for row in range(500):
        orders.append([f"order {row}", f"customer {row}", row, row * 2, "words"])
    orders["A1048576"] = "stray"
    book.create_sheet("Notes")["A1"] = "only this sheet is found"
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


EXCEL = (
    ReadingCase(
        key="f08_orders.xlsx",
        body=_orders(),
        contains=("Orders", "order 0", "customer 0", "customer 499", "stray", "Notes", "only this sheet is found"),
        once=("customer 250", "stray"),
    ),
)


def _chapter(text: str) -> str:
    return f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body><p>{text}</p></body></html>'


def _item(name: str, href: str, media_type: str = "application/xhtml+xml") -> str:
    return f'<item id="{name}" href="{href}" media-type="{media_type}"/>'


def _book(
    items: str,
    spine: tuple[str, ...],
    files: Mapping[str, str | bytes] | None = None,
    *,
    mimetype_first: bool = True,
    mimetype_stored: bool = True,
) -> bytes:
    references = "".join(f'<itemref idref="{name}"/>' for name in spine)
    parts: dict[str, str | bytes] = {
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="O/b.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        "O/b.opf": '<package xmlns="http://www.idpf.org/2007/opf">'
        f"<manifest>{items}</manifest><spine>{references}</spine></package>",
        "O/a.xhtml": _chapter("Chapter one"),
        **(files or {}),
    }
    mark = {"mimetype": "application/epub+zip"}
    ordered = mark | parts if mimetype_first else parts | mark
    return pack(ordered, stored=frozenset({"mimetype"}) if mimetype_stored else frozenset())


_ONE = _item("a", "a.xhtml")

EPUB = tuple(
    ReadingCase(key=f"f14_{name}.epub", body=body, contains=("Chapter one",), once=("Chapter one",))
    for name, body in {
        "mimetype_last": _book(_ONE, ("a",), mimetype_first=False),
        "mimetype_deflated": _book(_ONE, ("a",), mimetype_stored=False),
        "chapter_missing": _book(_ONE + _item("b", "b.xhtml"), ("a", "b")),
        "idref_unknown": _book(_ONE, ("cover", "a")),
        "picture_in_spine": _book(
            _ONE + _item("i", "c.jpg", "image/jpeg"), ("i", "a"), {"O/c.jpg": b"\xff\xd8\xff\xe0" + _PICTURE[:500]}
        ),
    }.items()
)
