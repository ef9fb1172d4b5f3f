"""PDF files with chosen objects: fonts with and without Unicode, boxes, form fields, notes, attachments."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pikepdf
from pikepdf import Array, Dictionary, Name, String

_CMAP = (
    "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def "
    "1 begincodespacerange <00> <FF> endcodespacerange {count} beginbfchar {pairs} endbfchar endcmap "
    "CMapName currentdict /CMap defineresource pop end end"
)
A4 = (0, 0, 595, 842)


def show(text: str, x: float = 72, y: float = 700, *, font: str = "F", size: float = 12) -> bytes:
    """Return the operators that show a Latin text at a place, in points from the lower left."""
    escaped = text.encode("cp1252").replace(b"\\", rb"\\").replace(b"(", rb"\(").replace(b")", rb"\)")
    escaped = escaped.replace(b"\r", rb"\r")  # as it is, a line end of the content
    return f"BT /{font} {size} Tf {x} {y} Td (".encode() + escaped + b") Tj ET\n"


class PdfBuilder:
    """A PDF under construction. Every page has Helvetica as ``F``."""

    def __init__(self) -> None:
        self.pdf = pikepdf.new()
        self._fonts = Dictionary(F=self.make_font())
        self._fields = Array()

    def make_font(
        self, pairs: Mapping[int, str] | None = None, *, names: Mapping[int, str] | None = None
    ) -> Dictionary:
        """Return a font; ``pairs`` maps codes to the hexadecimal UTF-16 of its Unicode, ``names`` codes to glyphs."""
        font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica, Encoding=Name.WinAnsiEncoding)
        if pairs:
            text = " ".join(f"<{code:02X}> <{value}>" for code, value in pairs.items())
            font.ToUnicode = self.pdf.make_stream(_CMAP.format(count=len(pairs), pairs=text).encode())
        if names:
            differences = Array([part for code, name in names.items() for part in (code, Name("/" + name))])
            font.Encoding = Dictionary(Type=Name.Encoding, Differences=differences)
        return font

    def add_page(self, content: bytes, *, fonts: Mapping[str, Any] | None = None, **entries: Any) -> int:
        """Add a page with further fonts and entries, for example ``CropBox``; return its index."""
        every_font = Dictionary(self._fonts)
        for name, font in (fonts or {}).items():
            every_font["/" + name] = font
        page = Dictionary(
            Type=Name.Page,
            MediaBox=Array(A4),
            Resources=Dictionary(Font=every_font),
            Contents=self.pdf.make_stream(content),
        )
        for name, value in entries.items():
            page["/" + name] = Array(value) if isinstance(value, tuple) else value
        self.pdf.pages.append(pikepdf.Page(self.pdf.make_indirect(page)))
        return len(self.pdf.pages) - 1

    def add_picture_page(self) -> int:
        """Add a page that shows only a grey picture."""
        pixel = self.pdf.make_stream(b"\x80")
        pixel.update(
            Dictionary(
                Type=Name.XObject, Subtype=Name.Image, Width=1, Height=1, ColorSpace=Name.DeviceGray, BitsPerComponent=8
            )
        )
        return self.add_page(
            b"q 500 0 0 700 40 40 cm /I Do Q", Resources=Dictionary(XObject=Dictionary(I=pixel), Font=self._fonts)
        )

    def annotate(
        self, page: int, subtype: str, *, rect: tuple[float, ...] = (72, 400, 300, 430), **entries: Any
    ) -> Any:
        """Add an annotation to a page and return it."""
        note = Dictionary(Type=Name.Annot, Subtype=Name("/" + subtype), Rect=Array(rect))
        for name, value in entries.items():
            note["/" + name] = String(value) if isinstance(value, str) else value
        note = self.pdf.make_indirect(note)
        target = self.pdf.pages[page].obj
        if "/Annots" not in target:
            target.Annots = Array()
        target.Annots.append(note)
        return note

    def add_field(self, kind: str, name: str, *, parent: Any = None, **entries: Any) -> Any:
        """Add a form field, without a widget of its own, to the form or to a parent field, and return it."""
        field = Dictionary(FT=Name("/" + kind), T=String(name))
        for key, value in entries.items():
            field["/" + key] = String(value) if isinstance(value, str) else value
        field = self.pdf.make_indirect(field)
        if parent is None:
            self._fields.append(field)
        else:
            field.Parent = parent
            parent.Kids = Array([*parent.get("/Kids", ()), field])
        return field

    def add_to_form(self, field: Any) -> None:
        """Add a widget that is a field itself to the form."""
        self._fields.append(field)

    def add_widget(self, page: int, field: Any, **entries: Any) -> Any:
        """Show a field on a page."""
        widget = self.annotate(page, "Widget", Parent=field, **entries)
        field.Kids = Array([*field.get("/Kids", ()), widget])
        return widget

    def attach(self, name: str, content: bytes, *, relationship: str | None = None, subtype: str | None = None) -> None:
        """Embed a file."""
        spec = pikepdf.AttachedFileSpec(self.pdf, content, filename=name, mime_type=subtype or "")
        if relationship is not None:
            spec.obj.AFRelationship = Name("/" + relationship)
        self.pdf.attachments[name] = spec

    def save(self, **options: Any) -> bytes:
        """Return the file."""
        if len(self._fields) and "/AcroForm" not in self.pdf.Root:
            self.pdf.Root.AcroForm = Dictionary(Fields=self._fields)
        buffer = io.BytesIO()
        self.pdf.save(buffer, **({"deterministic_id": True} if "encryption" not in options else {}), **options)
        return buffer.getvalue()
