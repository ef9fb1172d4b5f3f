"""Cases of PDF files, made by two libraries that write them."""

from __future__ import annotations

import io
from collections.abc import Callable

import pikepdf
from reportlab.pdfgen import canvas

from support.reading_cases.case import ReadingCase

_CMAP = (
    "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def "
    "1 begincodespacerange <00> <FF> endcodespacerange {count} beginbfchar {pairs} endbfchar endcmap "
    "CMapName currentdict /CMap defineresource pop end end"
)
_A4 = [0, 0, 595, 842]


def _font(pdf: pikepdf.Pdf, base: str, pairs: dict[int, str] | None = None) -> pikepdf.Dictionary:
    """Return a Type 1 font; ``pairs`` maps codes to the hexadecimal UTF-16 of its ToUnicode map."""
    font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name("/" + base))
    if pairs:
        text = " ".join(f"<{code:02X}> <{value}>" for code, value in pairs.items())
        font.ToUnicode = pdf.make_stream(_CMAP.format(count=len(pairs), pairs=text).encode())
    return font


def _add_page(pdf: pikepdf.Pdf, content: bytes, **fonts: pikepdf.Dictionary) -> None:
    page = pikepdf.Dictionary(
        Type=pikepdf.Name.Page,
        MediaBox=_A4,
        Resources=pikepdf.Dictionary(Font=pikepdf.Dictionary(**fonts)),
        Contents=pdf.make_stream(content),
    )
    pdf.pages.append(pikepdf.Page(pdf.make_indirect(page)))


def _save(pdf: pikepdf.Pdf) -> bytes:
    buffer = io.BytesIO()
    pdf.save(buffer, deterministic_id=True)
    return buffer.getvalue()


def _two_pages(unicode: str) -> bytes:
    """Return two pages; the first has one character with the given ToUnicode value."""
    pdf = pikepdf.new()
    fonts = {"F": _font(pdf, "Helvetica", {0x58: unicode}), "G": _font(pdf, "Times-Roman")}
    _add_page(pdf, b"BT /G 12 Tf 72 700 Td (Ordinary words on page one) Tj 0 -20 Td /F 12 Tf (X) Tj ET", **fonts)
    _add_page(pdf, b"BT /G 12 Tf 72 700 Td (Ordinary words on page two) Tj ET", **fonts)
    return _save(pdf)


def _hebrew(text: str) -> bytes:
    """Return a page with a right-to-left line, whose glyphs are written from left to right as producers do."""
    codes = {letter: 97 + index for index, letter in enumerate(sorted(set(text) - {" "}))}
    pairs = {0x20: "0020"} | {code: f"{ord(letter):04X}" for letter, code in codes.items()}
    shown = bytes(codes.get(letter, 0x20) for letter in reversed(text))
    pdf = pikepdf.new()
    _add_page(pdf, b"BT /F 12 Tf 200 700 Td (%s) Tj ET" % shown, F=_font(pdf, "Helvetica", pairs))
    return _save(pdf)


def _draw(draw: Callable[[canvas.Canvas], None], size: tuple[float, float], **page: object) -> bytes:
    """Return a page that ``draw`` has drawn, with other boxes or a rotation."""
    buffer = io.BytesIO()
    paper = canvas.Canvas(buffer, pagesize=size, invariant=1)
    draw(paper)
    paper.showPage()
    paper.save()
    with pikepdf.open(io.BytesIO(buffer.getvalue())) as pdf:
        for name, value in page.items():
            pdf.pages[0]["/" + name] = pikepdf.Array(value) if isinstance(value, list) else value
        return _save(pdf)


def _draw_marks(paper: canvas.Canvas) -> None:
    paper.drawString(157, 885, "Title of the article at the top")
    for line in range(20):
        paper.drawString(157, 850 - 15 * line, f"line {line} of the body")


def _turned(angle: int) -> bytes:
    def draw(paper: canvas.Canvas) -> None:
        paper.translate(300, 400)
        paper.rotate(angle)
        for line in range(4):
            paper.drawString(-150, -20 * line, f"Turned line {line} with several words in order")

    return _draw(draw, (600, 800), Rotate=angle)


def _form() -> bytes:
    def draw(paper: canvas.Canvas) -> None:
        paper.drawString(72, 750, "Name of the applicant")
        paper.acroForm.textfield(name="who", x=72, y=700, width=200, height=20, value="Filled in by Ada Lovelace")

    return _draw(draw, (595, 842))


_PAGES = ("Ordinary words on page one", "Ordinary words on page two")
_HEBREW = "שלום עולם זה מבחן"

PDF = (
    ReadingCase(key="f04_page_lost.pdf", body=_two_pages("D835"), contains=_PAGES),
    ReadingCase(key="f04_good.pdf", body=_two_pages("00E9"), contains=_PAGES),
    ReadingCase(
        key="f05_printers_marks.pdf",
        body=_draw(_draw_marks, (795, 1042), CropBox=[100, 100, 695, 942]),
        lines=("Title of the article at the top", *(f"line {line} of the body" for line in range(20))),
    ),
    ReadingCase(
        key="f05_second_half.pdf",
        body=_draw(
            lambda paper: paper.drawString(700, 500, "Only the right half is shown"),
            (1224, 792),
            CropBox=[612, 0, 1224, 792],
        ),
        contains=("Only the right half is shown",),
    ),
    ReadingCase(
        key="f05_negative.pdf",
        body=_draw(
            lambda paper: paper.drawString(-250, 100, "Origin in the middle of the page"),
            (600, 800),
            MediaBox=[-300, -400, 300, 400],
        ),
        contains=("Origin in the middle of the page",),
    ),
    ReadingCase(key="f06_rtl.pdf", body=_hebrew(_HEBREW), contains=(_HEBREW,)),
    *(
        ReadingCase(
            key=f"f06_landscape{angle}.pdf",
            body=_turned(angle),
            lines=tuple(f"Turned line {line} with several words in order" for line in range(4)),
        )
        for angle in (90, 270)
    ),
    ReadingCase(
        key="f07_form.pdf",
        body=_form(),
        contains=("Name of the applicant", "who", "Filled in by Ada Lovelace"),
        once=("Filled in by Ada Lovelace",),
    ),
)
