"""Builders of real files, one per format: the same arguments always give the same bytes."""

from __future__ import annotations

import datetime as dt
import email.message
import email.policy
import gzip
import html
import io
import zipfile
from collections.abc import Sequence

_DATE = dt.datetime(2024, 1, 2, 3, 4, 6)  # noqa: DTZ001 - Office files carry naive times
_ZIP_DATE = (2024, 1, 2, 3, 4, 6)

Sections = Sequence[tuple[str, Sequence[str]]]
"""Headings with their paragraphs."""


def build_zip(members: Sequence[tuple[str, bytes]], *, stored: frozenset[str] = frozenset()) -> bytes:
    """Pack members in order with fixed dates; those in ``stored`` are not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in members:
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.compress_type = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, body)
    return buffer.getvalue()


def _freeze_zip(body: bytes) -> bytes:
    """Pack an Office file again with fixed dates, so that it does not depend on the clock."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return build_zip([(name, archive.read(name)) for name in archive.namelist()])


def build_gzip(body: bytes) -> bytes:
    """Compress without a time stamp."""
    return gzip.compress(body, mtime=0)


def build_markdown(title: str, sections: Sections) -> bytes:
    """A Markdown file with one first-level and many second-level headings."""
    parts = [f"# {title}"]
    for heading, paragraphs in sections:
        parts += [f"## {heading}", *paragraphs]
    return ("\n\n".join(parts) + "\n").encode()


def build_html(title: str, sections: Sections, *, charset: str = "utf-8") -> bytes:
    """A whole HTML page that declares its encoding, with a script and a style that are not text."""
    body = "".join(
        f"<h2>{html.escape(heading)}</h2>" + "".join(f"<p>{html.escape(p)}</p>" for p in paragraphs)
        for heading, paragraphs in sections
    )
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="{charset}"><title>{html.escape(title)}</title>'
        f"<style>p {{ color: red }}</style><script>var hidden = 1;</script></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )
    return page.encode(charset, "xmlcharrefreplace")


def build_docx(title: str, sections: Sections) -> bytes:
    """A Word file with headings, paragraphs and its title in the core properties."""
    import docx

    document = docx.Document()
    properties = document.core_properties
    properties.title, properties.author = title, "Corpus"
    properties.created = properties.modified = _DATE
    document.add_heading(title, level=1)
    for heading, paragraphs in sections:
        document.add_heading(heading, level=2)
        for paragraph in paragraphs:
            document.add_paragraph(paragraph)
    buffer = io.BytesIO()
    document.save(buffer)
    return _freeze_zip(buffer.getvalue())


def build_pptx(title: str, sections: Sections) -> bytes:
    """A PowerPoint file, one slide per section."""
    import pptx

    deck = pptx.Presentation()
    deck.core_properties.title = title
    deck.core_properties.created = deck.core_properties.modified = _DATE
    for heading, paragraphs in sections:
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = heading
        slide.placeholders[1].text_frame.text = "\n".join(paragraphs)
    buffer = io.BytesIO()
    deck.save(buffer)
    return _freeze_zip(buffer.getvalue())


def build_xlsx(title: str, sheets: Sequence[tuple[str, Sequence[Sequence[str | float | None]]]]) -> bytes:
    """An Excel file; each sheet is a name and its rows."""
    import openpyxl

    book = openpyxl.Workbook()
    book.properties.title = title
    book.properties.created = book.properties.modified = _DATE
    book.remove(book.active)
    for name, rows in sheets:
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    buffer = io.BytesIO()
    book.save(buffer)
    return _freeze_zip(_pin_modified(buffer.getvalue()))


def _pin_modified(body: bytes) -> bytes:
    """Openpyxl stamps the moment of saving whatever the properties say; put the fixed date back."""
    import re

    stamp = _DATE.isoformat().encode() + b"Z"
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    pattern = re.compile(rb"(<dcterms:modified[^>]*>)[^<]*")
    return build_zip([(name, pattern.sub(rb"\g<1>" + stamp, data)) for name, data in members])


def build_csv(rows: Sequence[Sequence[str]], *, delimiter: str = ",") -> bytes:
    """Rows with quotes where they are needed and CRLF between them, as RFC 4180 wants."""
    import csv

    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter).writerows(rows)
    return buffer.getvalue().encode()


def build_xml(title: str, sections: Sections) -> bytes:
    """A small data-like XML file."""
    items = "".join(
        f'<section name="{html.escape(heading)}">'
        + "".join(f"<para>{html.escape(p)}</para>" for p in paragraphs)
        + "</section>"
        for heading, paragraphs in sections
    )
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<report><title>{html.escape(title)}</title>'
    return f"{head}{items}</report>\n".encode()


def build_rtf(title: str, sections: Sections) -> bytes:
    """A Rich Text file; what is not ASCII becomes escapes."""

    def escape(text: str) -> str:
        units = text.encode("utf-16-le")
        out = []
        for low, high in zip(units[::2], units[1::2], strict=True):
            unit = low | high << 8
            char = chr(unit)
            if unit < 128:
                out.append("\\" + char if char in "\\{}" else char)
            else:
                out.append(f"\\u{unit - 65536 if unit > 32767 else unit}?")
        return "".join(out)

    paragraphs = [title]
    for heading, section in sections:
        paragraphs += [heading, *section]
    body = "".join(f"\\pard {escape(p)}\\par\n" for p in paragraphs)
    return f"{{\\rtf1\\ansi\\ansicpg1252\\uc1{{\\info{{\\title {escape(title)}}}}}\n{body}}}".encode("ascii")


def _epub_chapter(heading: str, paragraphs: Sequence[str]) -> bytes:
    body = "".join(f"<p>{html.escape(p)}</p>" for p in paragraphs)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml">'
        f"<head><title>{html.escape(heading)}</title></head><body><h1>{html.escape(heading)}</h1>{body}</body></html>"
    ).encode()


def build_epub(title: str, sections: Sections) -> bytes:
    """An EPUB 3 book, one chapter per section."""
    numbers = range(1, len(sections) + 1)
    items = "".join(f'<item id="c{i}" href="chapter{i}.xhtml" media-type="application/xhtml+xml"/>' for i in numbers)
    spine = "".join(f'<itemref idref="c{i}"/>' for i in numbers)
    package = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="id">urn:corpus</dc:identifier>'
        f"<dc:title>{html.escape(title)}</dc:title><dc:language>en</dc:language></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles>'
        "</container>"
    )
    members = [
        ("mimetype", b"application/epub+zip"),
        ("META-INF/container.xml", container.encode()),
        ("OEBPS/content.opf", package.encode()),
        *((f"OEBPS/chapter{i}.xhtml", _epub_chapter(*section)) for i, section in enumerate(sections, 1)),
    ]
    return build_zip(members, stored=frozenset({"mimetype"}))


def build_eml(
    subject: str, paragraphs: Sequence[str], *, html_only: bool = False, attachment: bytes | None = None
) -> bytes:
    """An e-mail with a text body, or an HTML body alone, and one attachment when given."""
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"] = "Ada Example <ada@example.org>"
    message["To"] = "bob@example.org"
    message["Date"] = "Tue, 02 Jan 2024 03:04:06 +0000"
    message["Message-ID"] = "<corpus@example.org>"
    message["Subject"] = subject
    if html_only:
        page = "".join(f"<p>{html.escape(p)}</p>" for p in paragraphs)
        message.set_content(f"<html><body>{page}</body></html>", subtype="html")
    else:
        message.set_content("\n\n".join(paragraphs) + "\n")
    if attachment is not None:
        message.add_attachment(attachment, maintype="text", subtype="csv", filename="table.csv")
        message.set_boundary("corpus-boundary")
    return message.as_bytes()
