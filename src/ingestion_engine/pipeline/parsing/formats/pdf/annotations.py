"""What stands on a page beside its own text: values of form fields, and notes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pypdfium2.raw as pdfium

from ingestion_engine.pipeline.parsing.formats.pdf.library import (
    Handle,
    decode_utf16,
    open_annotation,
    read_bytes,
    read_string,
)

_WITHOUT_TEXT = frozenset(
    {
        pdfium.FPDF_ANNOT_LINK,  # its content describes the text under it
        pdfium.FPDF_ANNOT_POPUP,  # shows the content of the note that it belongs to
        pdfium.FPDF_ANNOT_SOUND,
        pdfium.FPDF_ANNOT_MOVIE,
        pdfium.FPDF_ANNOT_SCREEN,
        pdfium.FPDF_ANNOT_PRINTERMARK,
        pdfium.FPDF_ANNOT_TRAPNET,
        pdfium.FPDF_ANNOT_THREED,
        pdfium.FPDF_ANNOT_RICHMEDIA,
    }
)
_HIDDEN = pdfium.FPDF_ANNOT_FLAG_HIDDEN
_PASSWORD = 1 << 13
"""Flag of a text field that hides what is typed (PDF 32000-1, table 228)."""

_BUTTONS = frozenset({pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON})
_CHOICES = frozenset({pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX})
_GENERATED_NAME = re.compile(r"\[\d+\]|(?:^|\.)#[^.]*(?=\.)")
"""Parts of names that form designers generate: ``form1[0].#subform[0].city[0]`` is ``form1.city``."""
_TAGS = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file inside the PDF."""

    name: str
    kind: str
    """Its media type as declared; may be empty."""
    relationship: str
    """What it is to the pages, as PDF/A-3 declares: "Source", "Data"; may be empty."""
    content: bytes


def read_attachment(handle: Handle) -> Attachment | None:
    """Return a file inside the PDF; None where its content is missing."""
    content = read_bytes(pdfium.FPDFAttachment_GetFile, handle) if handle else None
    if content is None:
        return None
    return Attachment(
        name=" ".join(read_string(pdfium.FPDFAttachment_GetName, handle).split()),
        kind=read_string(pdfium.FPDFAttachment_GetSubtype, handle),
        relationship=read_string(pdfium.FPDFAttachment_GetAFRelationship, handle),
        content=content,
    )


@dataclass(slots=True)
class Annotations:
    """Reads the annotations of one page after another; a field that is on several pages is read once."""

    attachments: list[Attachment | None] = field(default_factory=list, init=False)
    """Files attached to notes so far."""
    _fields: set[tuple[str, str]] = field(default_factory=set, init=False)

    def read(self, page: Handle, text: Handle, form: Handle | None) -> list[str]:
        """Return a line per field that has a value, ``name: value``, and per note, in the page's order.

        What the page itself shows at that place, as after flattening a form, is not repeated. Hidden notes, passwords
        and buttons without a state are left out.

        Cost: one pass over the page's characters per value.
        """
        lines: list[str] = []
        for index in range(max(0, pdfium.FPDFPage_GetAnnotCount(page))):
            with open_annotation(page, index) as annotation:
                if annotation is None:
                    continue
                kind = pdfium.FPDFAnnot_GetSubtype(annotation)
                if kind == pdfium.FPDF_ANNOT_WIDGET:
                    lines += self._read_field(annotation, text, form) if form is not None else ()
                elif kind not in _WITHOUT_TEXT and not pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
                    lines += _read_note(annotation, text)
                    if kind == pdfium.FPDF_ANNOT_FILEATTACHMENT:
                        self.attachments.append(read_attachment(pdfium.FPDFAnnot_GetFileAttachment(annotation)))
        return lines

    def _read_field(self, annotation: Handle, text: Handle, form: Handle) -> Iterator[str]:
        values = list(_read_values(annotation, form))
        if not values:  # most fields of a large form
            return
        name, label = _read_names(annotation, form)
        for value in values:
            if (name, value) not in self._fields and not _is_shown(annotation, text, value):
                self._fields.add((name, value))
                shown = " ".join((label or _GENERATED_NAME.sub("", name)).split())
                yield f"{shown}: {value}" if shown else value


def _read_names(annotation: Handle, form: Handle) -> tuple[str, str]:
    """Return the full name of a field and the one that people see; the latter may be empty."""
    if _is_whole_text_field(annotation):
        get = partial(pdfium.FPDFAnnot_GetStringValue, annotation)
        return read_string(get, b"T"), read_string(get, b"TU")
    name = read_string(pdfium.FPDFAnnot_GetFormFieldName, form, annotation)
    return name, read_string(pdfium.FPDFAnnot_GetFormFieldAlternateName, form, annotation)


def _is_whole_text_field(annotation: Handle) -> bool:
    """Return whether an annotation is a text field by itself, which inherits nothing from another one.

    Its entries are read directly: PDFium looks a field up by its name among all of its neighbours, at every call.
    """
    has = partial(pdfium.FPDFAnnot_HasKey, annotation)
    if has(b"Parent") or not (has(b"FT") and has(b"T") and has(b"V")):
        return False
    return read_string(pdfium.FPDFAnnot_GetStringValue, annotation, b"FT") == "Tx"


def _read_values(annotation: Handle, form: Handle) -> Iterator[str]:
    if _is_whole_text_field(annotation):
        flags = ctypes.c_float()
        pdfium.FPDFAnnot_GetNumberValue(annotation, b"Ff", flags)
        value = read_string(pdfium.FPDFAnnot_GetStringValue, annotation, b"V").strip()
        if value and not int(flags.value) & _PASSWORD:
            yield value
        return
    kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in _BUTTONS:
        # The value of the button of the group that is on. A button without a state of its own is never drawn as on.
        if not pdfium.FPDFAnnot_HasKey(annotation, b"AS"):
            return
    elif kind in _CHOICES:
        count = max(0, pdfium.FPDFAnnot_GetOptionCount(form, annotation))
        chosen = [index for index in range(count) if pdfium.FPDFAnnot_IsOptionSelected(form, annotation, index)]
        get_label = partial(pdfium.FPDFAnnot_GetOptionLabel, form, annotation)
        labels = [read_string(get_label, index).strip() for index in chosen]
        if any(labels):
            yield ", ".join(filter(None, labels))
            return
    elif kind != pdfium.FPDF_FORMFIELD_TEXTFIELD or pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD:
        return
    value = read_string(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation).strip()
    if value and not (kind in _BUTTONS and value == "Off"):
        yield value


def _read_note(annotation: Handle, text: Handle) -> Iterator[str]:
    content = read_string(pdfium.FPDFAnnot_GetStringValue, annotation, b"Contents").strip()
    if not content:
        content = _TAGS.sub(" ", read_string(pdfium.FPDFAnnot_GetStringValue, annotation, b"RC")).strip()
    if content and not _is_shown(annotation, text, content):
        yield content


def _is_shown(annotation: Handle, text: Handle, value: str) -> bool:
    """Return whether the page's own text in the annotation's rectangle contains the value."""
    box = pdfium.FS_RECTF()
    if not pdfium.FPDFAnnot_GetRect(annotation, box):
        return False
    sides = (box.left, box.top, box.right, box.bottom)
    size = pdfium.FPDFText_GetBoundedText(text, *sides, None, 0)
    if size <= 0:
        return False
    buffer = (ctypes.c_ushort * size)()
    pdfium.FPDFText_GetBoundedText(text, *sides, buffer, size)
    return _squeeze(value) in _squeeze(decode_utf16(bytes(buffer)))


def _squeeze(text: str) -> str:
    return "".join(text.split())
