"""Writers of document formats for the demo's corpus, with the standard library alone. All pure."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from html import escape

_FIXED_TIME = (2026, 1, 1, 0, 0, 0)
"""Archives record times; with a fixed one the same corpus has the same bytes, so a second upload changes nothing."""
_LINE_CHARS = 92
_PAGE_LINES = 58


def write_pdf(title: str, paragraphs: Sequence[str]) -> bytes:
    """Return a PDF 1.4 of A4 pages in Helvetica; the text must be Latin-1."""
    pages = _paginate([title, "", *_wrap(paragraphs)])
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for index, lines in enumerate(pages):
        content = _pdf_text(lines)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * index} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    objects.append(f"<< /Title ({_pdf_escape(title)}) >>".encode("latin-1"))
    return _pdf_file(objects)


def write_docx(title: str, paragraphs: Sequence[str]) -> bytes:
    """Return a Word document with a heading and paragraphs."""
    namespace = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    heading = f'<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>{escape(title)}</w:t></w:r></w:p>'
    body = "".join(f'<w:p><w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>' for text in paragraphs)
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    word_type = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    return _zip(
        {
            "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{word_type}"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{package}/relationships">'
            f'<Relationship Id="rId1" Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/document.xml": f'<w:document xmlns:w="{namespace}"><w:body>{heading}{body}</w:body></w:document>',
        }
    )


def write_epub(title: str, chapters: Mapping[str, Sequence[str]]) -> bytes:
    """Return an EPUB 3 book, one file per chapter."""
    names = [f"chapter{index}.xhtml" for index in range(1, len(chapters) + 1)]
    items = "".join(f'<item id="c{i}" href="{n}" media-type="application/xhtml+xml"/>' for i, n in enumerate(names))
    spine = "".join(f'<itemref idref="c{index}"/>' for index in range(len(names)))
    files = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<rootfiles><rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
        "</container>",
        "book.opf": '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="id">demo</dc:identifier>'
        f"<dc:title>{escape(title)}</dc:title><dc:language>en</dc:language></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
    }
    files |= {name: write_html(*chapter) for name, chapter in zip(names, chapters.items(), strict=True)}
    return _zip(files)


def write_html(title: str, paragraphs: Sequence[str]) -> str:
    """Return a page with a title, a heading and paragraphs; valid XHTML too."""
    body = "\n".join(f"<p>{escape(text)}</p>" for text in paragraphs)
    return (
        f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{escape(title)}</title></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def write_rtf(title: str, paragraphs: Sequence[str]) -> bytes:
    """Return a rich-text document; characters beyond ASCII become RTF escapes."""
    text = "".join(f"{_rtf_escape(paragraph)}\\par\\par\n" for paragraph in paragraphs)
    return f"{{\\rtf1\\ansi{{\\info{{\\title {_rtf_escape(title)}}}}}\n{text}}}".encode("ascii")


def write_email(subject: str, paragraphs: Sequence[str], *, attachment: str) -> bytes:
    """Return a message with a text body and one attached text file."""
    message = EmailMessage()
    message["From"], message["To"] = "Ada <ada@example.com>", "Team <team@example.com>"
    message["Subject"], message["Date"] = subject, "Thu, 01 Jan 2026 09:00:00 +0000"
    message["Message-ID"] = "<demo-1@example.com>"
    message.set_content("\n\n".join(paragraphs))
    message.add_attachment(attachment, filename="notes.txt")
    message.set_boundary("demo-boundary")
    return bytes(message)


def _wrap(paragraphs: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for paragraph in paragraphs:
        line = ""
        for word in paragraph.split():
            if len(line) + len(word) + 1 > _LINE_CHARS:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        lines += [line, ""]
    return lines


def _paginate(lines: Sequence[str]) -> list[Sequence[str]]:
    return [lines[start : start + _PAGE_LINES] for start in range(0, len(lines), _PAGE_LINES)]


def _pdf_text(lines: Sequence[str]) -> bytes:
    shown = "\n".join(f"({_pdf_escape(line)}) Tj T*" for line in lines)
    return f"BT /F1 10 Tf 13 TL 50 790 Td\n{shown}\nET".encode("latin-1")


def _pdf_escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _pdf_file(objects: Sequence[bytes]) -> bytes:
    """Return a file of the objects, numbered from 1, with their cross-reference table; the last one is the info."""
    file = io.BytesIO()
    file.write(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(file.tell())
        file.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = file.tell()
    file.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    file.write(b"".join(b"%010d 00000 n \n" % offset for offset in offsets))
    size = len(objects) + 1
    file.write(b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, size - 1, start))
    return file.getvalue()


def _rtf_escape(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace("{", "\\{").replace("}", "\\}")
    return "".join(char if char.isascii() else f"\\u{ord(char)}?" for char in plain)


def _zip(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            kind = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name, _FIXED_TIME), text, compress_type=kind)
    return buffer.getvalue()
