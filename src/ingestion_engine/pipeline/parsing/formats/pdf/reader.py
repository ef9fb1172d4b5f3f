"""A PDF's pages, form, notes and attachments as text."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pypdfium2.raw as pdfium

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ReadWarning
from ingestion_engine.pipeline.parsing.formats.pdf.annotations import Annotations, Attachment, read_attachment
from ingestion_engine.pipeline.parsing.formats.pdf.library import (
    Handle,
    open_document,
    open_form,
    open_page,
    read_string,
)
from ingestion_engine.pipeline.parsing.formats.pdf.ocr import Ocr
from ingestion_engine.pipeline.parsing.formats.pdf.page_text import (
    PageText,
    open_upright_text,
    read_page_text,
)
from ingestion_engine.pipeline.parsing.formats.pdf.xfa import read_xfa
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText, ReadInner
from ingestion_engine.pipeline.parsing.unpack import corrupt

_TAIL_BYTES = 64 * 1024
"""End of a PDF that is searched for its end mark; writers and mail gateways append data behind the mark."""

_MANY_UNMAPPED = 0.1
"""Share of a page's characters without a mapping from which its text is reported; single symbols are usual."""

_MOST_UNMAPPED = 0.5
"""Share from which recognition of the page gives better text than its characters."""

_MANY_PATHS = 100
"""Lines and areas on a page without characters from which it is a drawing, not a frame or a ruled empty page."""

_WAITING = re.compile(r"\s*Please wait", re.IGNORECASE)
"""How the only page of a form begins that Adobe's viewer draws by itself."""

_SAME_CONTENT = frozenset({"Alternative", "Source"})
"""Attachments with the content of the pages in another form, as PDF/A-3 declares: an invoice's XML, the Word file."""

_METADATA_BYTES = 64 * 1024
"""Beginning of the XMP metadata that is searched for a title."""


def read_pdf(body: bytes, read_inner: ReadInner, *, ocr: Ocr | None = None) -> ParsedText:
    """Return the text of every page with its form fields and notes, then that of the attachments.

    Args:
        body: The file.
        read_inner: Reads an attachment.
        ocr: Recognises pages without characters, and those whose characters hardly have a mapping; None means that
            they are left out with a warning.

    Raises:
        ObjectError: ``corrupt_document``, also when a single page cannot be read; ``encrypted_document``;
            ``ocr_unavailable``.

    Cost: without recognition about 3 ms per page; memory of the text and of one page. One PDF at a time in a process.
    """
    if b"%%EOF" not in body[-_TAIL_BYTES:] and b"startxref" not in body[-_TAIL_BYTES:]:
        raise corrupt("PDF", "its end is missing")
    with open_document(body) as document, open_form(document) as form:
        reading = _Reading(form, ocr)
        for index in range(pdfium.FPDF_GetPageCount(document)):
            reading.add_page(document, index)
        title = _find_title(document, body)
        attachments = (*_open_attachments(document), *reading.attachments)
        texts = list(_attachment_texts(attachments, read_inner, reading.warnings))
        if pdfium.FPDF_GetFormType(document) == pdfium.FORMTYPE_XFA_FULL:
            reading.add_xfa(document)
    return ParsedText(
        "\n\n".join(texts), title=title, pages=tuple(reading.pages), warnings=(*reading.warnings, *reading.summary())
    )


@dataclass(slots=True)
class _Reading:
    """The pages read so far."""

    form: Handle | None
    ocr: Ocr | None
    pages: list[str] = field(default_factory=list, init=False)
    warnings: list[ReadWarning] = field(default_factory=list, init=False)
    _annotations: Annotations = field(default_factory=Annotations, init=False)
    _pictures: list[int] = field(default_factory=list, init=False)
    """Numbers of pages that show something and have no characters."""
    _unmapped: list[tuple[int, PageText]] = field(default_factory=list, init=False)

    @property
    def attachments(self) -> list[Attachment | None]:
        """The files attached to notes."""
        return self._annotations.attachments

    def add_page(self, document: Handle, index: int) -> None:
        """Read the next page."""
        number = index + 1
        with open_page(document, index) as page, open_upright_text(page, number) as handle:
            read = read_page_text(handle)
            lines = self._annotations.read(page, handle, self.form)
            text = read.text
            is_garbled = read.unmapped > _MANY_UNMAPPED * read.characters
            is_picture = not text.strip() and _shows_something(page)
            if is_picture or read.unmapped > _MOST_UNMAPPED * read.characters:
                recognized = self.ocr.recognize(page) if self.ocr else None
                if recognized is not None:
                    text, is_garbled, is_picture = recognized or text, is_garbled and not recognized, False
        if is_picture:
            self._pictures.append(number)
        if is_garbled:
            self._unmapped.append((number, read))
        self.pages.append("\n".join(filter(None, (text.rstrip(), *lines))))

    def add_xfa(self, document: Handle) -> None:
        """Replace the page that asks for Adobe's viewer by the form that this viewer would draw."""
        text = read_xfa(document)
        if text is None:
            self.warnings.append(ReadWarning("part_unreadable", detail="The XFA form cannot be read."))
        elif len(self.pages) == 1 and _WAITING.match(self.pages[0]):
            self.pages[0] = text or self.pages[0]
        else:
            self.pages[-1:] = ["\n\n".join(filter(None, (*self.pages[-1:], text)))]

    def summary(self) -> Iterator[ReadWarning]:
        """Yield what is missing from the text of the pages."""
        if self._pictures:
            detail = f"Page {self._pictures[0]} shows pictures only; it is probably scanned."
            if self.ocr is not None:
                detail = f"Page {self._pictures[0]} and later ones are beyond the limit of recognised pages."
            yield ReadWarning("page_without_text", len(self._pictures), detail)
        if self._unmapped:
            number, read = self._unmapped[0]
            detail = f"Page {number}: the fonts of {read.unmapped:,} of {read.characters:,} characters name no letters."
            yield ReadWarning("text_without_unicode", sum(read.unmapped for _, read in self._unmapped), detail)


def _shows_something(page: Handle) -> bool:
    """Return whether a page without characters has a picture, or is a drawing."""
    paths = 0
    for kind in _object_kinds(pdfium.FPDFPage_CountObjects(page), page):
        if kind in (pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_SHADING):
            return True
        paths += kind == pdfium.FPDF_PAGEOBJ_PATH
        if paths >= _MANY_PATHS:
            return True
    return False


def _object_kinds(count: int, page: Handle) -> Iterator[int]:
    """Yield the kinds of all objects on a page, also of those inside forms (reused drawings)."""
    holders = [(page, count, pdfium.FPDFPage_GetObject)]
    while holders:
        holder, count, get = holders.pop()
        for index in range(count):
            item = get(holder, index)
            kind = pdfium.FPDFPageObj_GetType(item)
            yield kind
            if kind == pdfium.FPDF_PAGEOBJ_FORM:
                holders.append((item, max(0, pdfium.FPDFFormObj_CountObjects(item)), pdfium.FPDFFormObj_GetObject))


def _find_title(document: Handle, body: bytes) -> str | None:
    """Return the title of the document's information, or else of its XMP metadata, which is never compressed."""
    title = read_string(pdfium.FPDF_GetMetaText, document, b"Title").strip()
    if title:
        return title
    at = body.rfind(b"<?xpacket begin")
    packet = body[at : at + _METADATA_BYTES] if at >= 0 else b""
    if b"application/pdf" not in packet:  # the metadata of a picture
        return None
    item = packet.partition(b"<dc:title")[2].partition(b"</dc:title>")[0].partition(b"<rdf:li")[2]
    value = item.partition(b">")[2].partition(b"</rdf:li>")[0]
    return html.unescape(value.decode("utf-8", "replace")).strip() or None


def _open_attachments(document: Handle) -> Iterator[Attachment | None]:
    for index in range(max(0, pdfium.FPDFDoc_GetAttachmentCount(document))):
        yield read_attachment(pdfium.FPDFDoc_GetAttachment(document, index))


def _attachment_texts(
    attachments: Iterable[Attachment | None], read_inner: ReadInner, warnings: list[ReadWarning]
) -> Iterator[str]:
    """Yield the text of every attached file once; one that cannot be read becomes a warning."""
    seen: set[tuple[str, bytes]] = set()
    for attachment in attachments:
        if attachment is None:
            warnings.append(ReadWarning("part_unreadable", detail="An attachment has no content."))
            continue
        name, kind, content = attachment.name, attachment.kind, attachment.content
        if attachment.relationship in _SAME_CONTENT or kind.partition("/")[0] in ("image", "audio", "video"):
            continue
        digest = (name, hashlib.sha256(content).digest())
        if digest in seen:
            continue
        seen.add(digest)
        try:
            parsed = read_inner(content, name, kind)
        except ObjectError as error:
            warnings.append(ReadWarning("part_unreadable", detail=f"Attachment '{name}': {error.code}."))
            continue
        warnings += parsed.warnings
        yield f"Attachment: {name}\n\n{parsed.whole_text.strip()}"
