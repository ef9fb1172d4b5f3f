"""PDFium's handles: opened, and closed in the order that it requires.

PDFium is not thread-safe: one thread of a process reads PDFs, in a worker the parser process's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pypdfium2.raw as pdfium

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.unpack import corrupt

Handle = Any
"""A pointer of PDFium: a document, a page, its text, an annotation."""


@contextmanager
def open_document(body: bytes) -> Iterator[Handle]:
    """Give the document of a file's bytes; one that is encrypted with an empty password opens as any reader opens it.

    Raises:
        ObjectError: ``encrypted_document`` or ``corrupt_document``.
    """
    document = pdfium.FPDF_LoadMemDocument64(body, len(body), None)
    if not document:
        raise _refusal(pdfium.FPDF_GetLastError())
    try:
        yield document
    finally:
        pdfium.FPDF_CloseDocument(document)


def _refusal(code: int) -> ObjectError:
    if code == pdfium.FPDF_ERR_PASSWORD:
        return ObjectError("encrypted_document", "The PDF is encrypted with a password.", kind="PDF")
    if code == pdfium.FPDF_ERR_SECURITY:
        return ObjectError("encrypted_document", "The PDF is encrypted in a way that is not supported.", kind="PDF")
    return corrupt("PDF", "it has no pages that can be found")


@contextmanager
def open_page(document: Handle, index: int) -> Iterator[Handle]:
    """Give a page, from 0. Raises ObjectError: ``corrupt_document`` with the page's number, from 1."""
    page = pdfium.FPDF_LoadPage(document, index)
    if not page:
        raise corrupt("PDF", f"page {index + 1} of {pdfium.FPDF_GetPageCount(document)} cannot be read")
    try:
        yield page
    finally:
        pdfium.FPDF_ClosePage(page)


@contextmanager
def open_text(page: Handle, number: int) -> Iterator[Handle]:
    """Give the characters of a page. Raises as ``open_page``."""
    text = pdfium.FPDFText_LoadPage(page)
    if not text:
        raise corrupt("PDF", f"the text of page {number} cannot be read")
    try:
        yield text
    finally:
        pdfium.FPDFText_ClosePage(text)


@contextmanager
def open_form(document: Handle) -> Iterator[Handle | None]:
    """Give the document's form, to be opened before its pages; None for a document without one.

    No script of the document is run: PDFium is built without an interpreter.
    """
    if pdfium.FPDF_GetFormType(document) == pdfium.FORMTYPE_NONE:
        yield None
        return
    callbacks = pdfium.FPDF_FORMFILLINFO(version=2)
    form = pdfium.FPDFDOC_InitFormFillEnvironment(document, callbacks)
    if not form:
        raise corrupt("PDF", "its form cannot be read")
    try:
        yield form
    finally:
        pdfium.FPDFDOC_ExitFormFillEnvironment(form)


@contextmanager
def open_annotation(page: Handle, index: int) -> Iterator[Handle | None]:
    """Give an annotation of a page, from 0; None for one that is no dictionary."""
    annotation = pdfium.FPDFPage_GetAnnot(page, index)
    try:
        yield annotation or None
    finally:
        if annotation:
            pdfium.FPDFPage_CloseAnnot(annotation)


def read_string(function: Callable[..., int], *arguments: Any) -> str:
    """Return the text that a function of PDFium writes as UTF-16 into a buffer, its last two arguments."""
    buffer = (ctypes.c_ushort * _USUAL_UNITS)()
    size = function(*arguments, buffer, ctypes.sizeof(buffer))
    if size > ctypes.sizeof(buffer):  # nothing was written
        buffer = (ctypes.c_ushort * (size // 2))()
        function(*arguments, buffer, size)
    return decode_utf16(bytes(buffer)[:size]).partition("\0")[0] if size > 2 else ""


_USUAL_UNITS = 256
"""Units of UTF-16 of a buffer that is large enough for most strings: a second call may cost as much as the first."""


def read_bytes(function: Callable[..., int], *arguments: Any) -> bytes | None:
    """Return the bytes that a function of PDFium writes into a buffer; None where it has none.

    Its last three arguments are the buffer, its size, and the size of the content.
    """
    size = ctypes.c_ulong()
    if not function(*arguments, None, 0, size):
        return None
    buffer = ctypes.create_string_buffer(max(1, size.value))
    return buffer.raw[: size.value] if function(*arguments, buffer, size.value, size) else None


def decode_utf16(units: bytes) -> str:
    """Return a text in UTF-16; half a character becomes U+FFFD. Pure."""
    return units.decode("utf-16-le", "replace")
