"""PDF files: every page's text whatever its boxes, fonts and rotation; forms, notes, attachments; damage by name."""

# ruff: noqa: RUF001 - the tests contain texts in many scripts

from __future__ import annotations

import time

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, String

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject, ReadWarning
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunking.chunk import chunk_document
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus.pdf import build_pdf
from support.pdf_builder import PdfBuilder, show


def read(body: bytes) -> Document:
    ref = ObjectRef("docs", "a.pdf", "etag", len(body), "2024-01-02T03:04:06Z")
    return parse_bytes(RawObject(ref, body, None, {}), FrozenLimits())


def fail(body: bytes) -> ObjectError:
    with pytest.raises(ObjectError) as caught:
        read(body)
    return caught.value


def one_page(content: bytes, **page: object) -> bytes:
    builder = PdfBuilder()
    builder.add_page(content, **page)
    return builder.save()


def codes(document: Document) -> dict[str, int]:
    return {warning.code: warning.count for warning in document.warnings}


# --- characters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "shown", "expected"),
    [
        ({0x58: "D835DC00"}, "aXb", "a𝐀b"),  # beyond U+FFFF
        ({0x58: "D83DDE00"}, "XX", "😀😀"),
        ({0x58: "D835", 0x59: "DC00"}, "aXYb", "a𝐀b"),  # half a character per glyph
        ({0x58: "D835"}, "aXb", "a\ufffdb"),
        ({0x58: "00660069"}, "Xnd", "find"),  # one glyph, two letters
        ({0x58: "FB01"}, "Xnd", "find"),  # a ligature
        ({0x58: "0000"}, "aXb", "ab"),
    ],
)
def test_every_form_of_unicode_in_a_font_is_read(pairs: dict[int, str], shown: str, expected: str) -> None:
    builder = PdfBuilder()
    letters = {ord(letter): f"{ord(letter):04X}" for letter in shown if ord(letter) not in pairs}
    builder.add_page(show(shown, font="G") + show("more words", y=600), fonts={"G": builder.make_font(pairs | letters)})
    assert read(builder.save()).text == f"{expected}\nmore words"


def test_thousands_of_characters_without_a_code_do_not_hide_those_behind_them() -> None:
    """PDFium's Python helper gives up by recursion there."""
    builder = PdfBuilder()
    builder.add_page(
        show("X" * 3_000, font="G", size=1) + show("words behind", y=600),
        fonts={"G": builder.make_font({0x58: "0002"})},
    )
    assert read(builder.save()).text.strip() == "words behind"


def test_characters_without_unicode_are_reported() -> None:
    """Glyphs with names of the font's own are not letters: their codes are kept as text, and counted."""
    builder = PdfBuilder()
    builder.add_page(show("Readable words " * 3))
    names = {code: f"g{code}" for code in range(65, 91)}
    builder.add_page(show("ABCDEFGHIJKLMNOP", font="G"), fonts={"G": builder.make_font(names=names)})
    document = read(builder.save())
    assert codes(document) == {"text_without_unicode": 16}
    assert document.warnings[0].detail.startswith("Page 2: ")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("signi\x1ccant", "significant"),
        ("di\x0berent", "different"),
        ("one line\x0danother", "one line another"),  # the end of a line
        ("two\x03words", "two words"),
        ("of\x15cial", "of\ufffdcial"),
        ("1\x1c2", "1\ufffd2"),
        ("k \x15 |C|", "k  |C|"),
    ],
)
def test_control_codes_of_fonts_without_unicode_do_not_vanish(shown: str, expected: str) -> None:
    """TeX's ligatures are known; another code is marked as unknown, so that two parts never become one word."""
    builder = PdfBuilder()
    controls = {ord(code): f"g{ord(code)}" for code in shown if code < " "}
    content = show(shown, font="G") + show("words " * 20, y=600)
    builder.add_page(content, fonts={"G": builder.make_font(names=controls)})
    assert read(builder.save()).text.split("\n")[0] == expected


# --- lines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a divided im-", "portant word", "a divided important word"),
        ("the COVID-", "19 rules", "the COVID-19 rules"),
        ("a state-of-the-", "art engine", "a state-of-the-art engine"),
        ("from Jean-", "Pierre", "from Jean-Pierre"),
        ("IMPOR-", "TANT", "IMPORTANT"),
        ("one line", "another", "one line\nanother"),
        ("a list -", "of things", "a list -\nof things"),
    ],
)
def test_words_divided_at_the_end_of_a_line_are_whole(first: str, second: str, expected: str) -> None:
    assert read(one_page(show(first) + show(second, y=686))).text == expected


def test_a_line_goes_on_behind_a_raised_sign() -> None:
    """As behind the notes of authors' names; a raised number never becomes part of the number before it."""
    content = (
        b"BT /F 12 Tf 72 700 Td (Ada Lovelace) Tj /F 7 Tf 69.5 6 Td (*) Tj /F 12 Tf 3 -6 Td (, Grace Hopper) Tj ET"
    )
    assert read(one_page(content)).text == "Ada Lovelace*, Grace Hopper"
    content = b"BT /F 12 Tf 72 700 Td (in all 112) Tj /F 7 Tf 55 6 Td (3) Tj ET"
    assert "1123" not in read(one_page(content)).text


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("turn", ["1 0 0 1", "0 1 -1 0", "-1 0 0 -1", "0 -1 1 0"])
def test_lines_of_turned_text_are_whole_and_in_order(rotate: int, turn: str) -> None:
    """For every direction of the text, on every rotation of the page."""
    lines = [f"Line {number} of turned text" for number in range(4)]
    content = b"".join(
        f"q {turn} 300 400 cm\n".encode() + show(line, -150, -20 * number) + b"Q\n" for number, line in enumerate(lines)
    )
    assert read(one_page(content, Rotate=rotate)).text.split("\n") == lines


# --- pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "boxes",
    [
        {"CropBox": (100, 100, 400, 500)},
        {"CropBox": (0, 0, 50, 50)},  # the text is outside what is shown
        {"MediaBox": (-300, -400, 600, 900)},
        {"MediaBox": (1000, 1000, 1595, 1842)},
        {"MediaBox": (595, 842, 0, 0)},
        {"MediaBox": (0, 0, 595, 842), "UserUnit": 2.5},
        {"CropBox": (2000, 2000, 2100, 2100)},
        {"MediaBox": (0, 0, 0, 0)},
    ],
)
def test_boxes_and_units_of_a_page_do_not_decide_what_is_text(boxes: dict[str, object]) -> None:
    content = show("Title at the top", 120, 450) + show("first line of the body", 120, 430)
    assert read(one_page(content, **boxes)).text == "Title at the top\nfirst line of the body"


def test_invisible_text_under_a_scanned_picture_is_read() -> None:
    """Text recognition writes it there."""
    assert read(one_page(b"3 Tr\n" + show("recognised words"))).text == "recognised words"


def test_bold_by_printing_twice_is_read_once() -> None:
    content = show("Heading in bold") + show("Heading in bold", 72.3) + show("body", y=600)
    assert read(one_page(content)).text == "Heading in bold\nbody"


def test_pages_of_pictures_among_pages_of_text_are_reported() -> None:
    """An empty page and a frame are no loss; page numbers count every page."""
    builder = PdfBuilder()
    builder.add_page(show("first"))
    builder.add_picture_page()
    builder.add_page(b"")
    builder.add_page(b"20 20 500 800 re S")
    builder.add_page(b"".join(b"%d 0 m %d 800 l S\n" % (at, at) for at in range(150)))
    builder.add_page(show("last"))
    document = read(builder.save())
    assert [span.page for span in document.pages] == [1, 6]
    assert document.warnings == (
        ReadWarning("page_without_text", 2, "Page 2 shows pictures only; it is probably scanned."),
    )


def test_pictures_without_any_text_are_no_text() -> None:
    builder = PdfBuilder()
    builder.add_picture_page()
    assert fail(builder.save()).code == "no_text"


def test_time_is_linear_in_pages() -> None:
    def seconds(pages: int) -> float:
        body = build_pdf(None, [[f"words of page {number}"] for number in range(pages)])
        began = time.process_time()
        assert len(read(body).pages) == pages
        return time.process_time() - began

    seconds(10)
    assert seconds(4_000) < 12 * seconds(1_000)


# --- forms and notes ----------------------------------------------------------------------------------------------


def test_values_of_fields_stand_beside_their_names() -> None:
    builder = PdfBuilder()
    page = builder.add_page(show("Application"))
    person = builder.add_field("Tx", "person", V="inherited value")
    del person["/FT"]
    builder.add_widget(page, builder.add_field("Tx", "city", V="London"))
    builder.add_widget(page, builder.add_field("Tx", "name", parent=person, TU="Name of the applicant", V="Ada"))
    builder.add_widget(page, builder.add_field("Tx", "second", parent=person))
    builder.add_widget(page, builder.add_field("Tx", "#subform[0]", parent=person))
    options = Array([Array([String("de"), String("Germany")]), Array([String("uk"), String("United Kingdom")])])
    builder.add_widget(page, builder.add_field("Ch", "country", V="uk", Opt=options, Ff=1 << 17))
    builder.add_widget(page, builder.add_field("Ch", "free", V="typed in", Opt=options, Ff=3 << 17))
    builder.add_widget(page, builder.add_field("Tx", "pin", V="1234", Ff=1 << 13))
    builder.add_widget(page, builder.add_field("Tx", "empty", V=""))
    builder.add_widget(page, builder.add_field("Btn", "send", Ff=1 << 16))
    lines = read(builder.save()).text.split("\n")
    assert lines[:4] == ["Application", "city: London", "Name of the applicant: Ada", "person.second: inherited value"]
    assert "country: United Kingdom" in lines
    assert "free: typed in" in lines
    assert not [line for line in lines if "1234" in line or line.startswith(("empty", "send"))]


def test_a_form_with_thousands_of_fields_takes_time_in_proportion() -> None:
    """PDFium looks a field up by its name among all others; a form of 20,000 fields took 20 s."""
    builder = PdfBuilder()
    page = builder.add_page(show("Application"))
    for number in range(12_000):
        widget = builder.annotate(page, "Widget", FT=Name.Tx, T=f"field {number}", V=f"value {number}")
        builder.add_to_form(widget)
    builder.add_to_form(builder.annotate(page, "Widget", FT=Name.Tx, T="pin", V="secret", Ff=1 << 13))
    builder.add_to_form(builder.annotate(page, "Widget", FT=Name.Tx, T="raw", TU="Shown", V="last value"))
    body = builder.save()
    started = time.process_time()
    lines = read(body).text.split("\n")
    assert time.process_time() - started < 4
    assert lines == [
        "Application",
        *(f"field {number}: value {number}" for number in range(12_000)),
        "Shown: last value",
    ]


def test_boxes_and_radio_buttons_give_the_state_that_is_on() -> None:
    builder = PdfBuilder()
    page = builder.add_page(show("Choices"))

    def add(field: object, states: dict[str, bool]) -> None:
        for state, is_on in states.items():
            look = builder.pdf.make_stream(b"")
            forms = Dictionary(N=Dictionary({f"/{state}": look, "/Off": look}))
            builder.add_widget(page, field, AP=forms, AS=Name(f"/{state}" if is_on else "/Off"))

    add(builder.add_field("Btn", "newsletter", V=Name.Yes), {"Yes": True})
    add(builder.add_field("Btn", "advertising", V=Name.Off), {"Yes": False})
    add(builder.add_field("Btn", "size", V=Name.large, Ff=1 << 15), {"small": False, "large": True, "huge": False})
    assert read(builder.save()).text.split("\n") == ["Choices", "newsletter: Yes", "size: large"]


def test_a_field_on_several_pages_and_one_that_the_page_shows_are_read_once() -> None:
    builder = PdfBuilder()
    first = builder.add_page(show("Ada Lovelace", 80, 410))
    second = builder.add_page(show("second page"))
    shown = builder.add_field("Tx", "shown", V="Ada Lovelace")
    builder.add_widget(first, shown, rect=(72, 400, 300, 430))
    other = builder.add_field("Tx", "other", V="Charles Babbage")
    builder.add_widget(first, other, rect=(72, 300, 300, 330))
    builder.add_widget(second, other, rect=(72, 300, 300, 330))
    text = read(builder.save()).text
    assert text == "Ada Lovelace\nother: Charles Babbage\n\nsecond page"


def test_notes_are_text_of_their_page() -> None:
    builder = PdfBuilder()
    page = builder.add_page(show("marked words", 80, 410))
    note = builder.annotate(page, "Text", Contents="A comment on the page")
    builder.annotate(page, "Popup", Parent=note, Contents="A comment on the page")
    builder.annotate(page, "FreeText", Contents="Typed beside the text")
    builder.annotate(page, "FreeText", RC="<body><p>Only <b>rich</b> text</p></body>", rect=(0, 0, 9, 9))
    builder.annotate(page, "Highlight", Contents="marked words", rect=(72, 405, 300, 425))
    builder.annotate(page, "Text", Contents="never shown", F=2)
    builder.annotate(page, "Link", Contents="describes the link")
    text = read(builder.save()).text
    assert " ".join(text.split()) == "marked words A comment on the page Typed beside the text Only rich text"


def test_a_form_without_printed_text_is_not_without_text() -> None:
    builder = PdfBuilder()
    page = builder.add_picture_page()
    builder.add_widget(page, builder.add_field("Tx", "city", V="London"))
    assert read(builder.save()).text == "city: London"


_TEMPLATE = """<template xmlns="http://www.xfa.org/schema/xfa-template/3.3/"><subform name="form1">
<draw><value><text>Tax return</text></value></draw>
<field name="city"><caption><value><exData><body xmlns="http://www.w3.org/1999/xhtml"><p>City of <b>birth</b></p></body>
</exData></value></caption><event><script>app.alert("no text")</script></event></field></subform></template>"""
_DATASETS = """<xfa:datasets xmlns:xfa="http://www.xfa.org/schema/xfa-data/1.0/"><xfa:data><form1><city>London</city>
<empty/></form1></xfa:data></xfa:datasets>"""


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_form_that_only_adobes_viewer_draws_is_read_from_its_xml(is_whole: bool) -> None:
    """Its page in the PDF asks for that viewer. The XML is one stream, or one per part."""
    builder = PdfBuilder()
    builder.add_page(show("Please wait... If this message is not eventually replaced"))
    make = builder.pdf.make_stream
    whole = f'<xdp:xdp xmlns:xdp="http://ns.adobe.com/xdp/">{_TEMPLATE}{_DATASETS}</xdp:xdp>'
    parts = Array([String("template"), make(_TEMPLATE.encode()), String("datasets"), make(_DATASETS.encode())])
    builder.pdf.Root.AcroForm = Dictionary(Fields=Array(), XFA=make(whole.encode()) if is_whole else parts)
    builder.pdf.Root.NeedsRendering = True
    assert read(builder.save()).text == "Tax return\nCity of birth\ncity: London"


def test_an_unreadable_xfa_form_is_reported() -> None:
    builder = PdfBuilder()
    builder.add_page(show("Please wait..."))
    xml = builder.pdf.make_stream(_TEMPLATE[:-30].encode())
    builder.pdf.Root.AcroForm = Dictionary(Fields=Array(), XFA=Array([String("template"), xml]))
    builder.pdf.Root.NeedsRendering = True
    document = read(builder.save())
    assert document.text == "Please wait..."
    assert codes(document) == {"part_unreadable": 1}


# --- attachments, title, encryption, damage -----------------------------------------------------------------------


def test_attachments_follow_the_pages_on_no_page() -> None:
    builder = PdfBuilder()
    builder.add_page(show("Cover"))
    builder.attach("notes.txt", b"Words of the notes", subtype="text/plain")
    builder.attach("inner.pdf", build_pdf("Inner", [["Words of the inner PDF"]]))
    builder.attach("picture.png", b"\x89PNG\r\n\x1a\n", subtype="image/png")
    builder.attach("invoice.xml", b"<a>doubled</a>", relationship="Alternative")
    builder.attach("broken.docx", b"PK\x03\x04 broken")
    document = read(builder.save())
    assert "Attachment: notes.txt\n\nWords of the notes" in document.text
    assert "Attachment: inner.pdf\n\nWords of the inner PDF" in document.text
    assert "doubled" not in document.text
    assert codes(document) == {"part_unreadable": 1}
    assert "broken.docx" in document.warnings[0].detail
    chunks = list(chunk_document(document, Chunking(max_chars=50, overlap_chars=0)))
    assert [chunk.page for chunk in chunks if "Cover" in chunk.text] == [1]
    assert [chunk.page for chunk in chunks if "Words of the inner" in chunk.text] == [None]


def test_a_file_attached_to_a_note_is_read_once() -> None:
    builder = PdfBuilder()
    page = builder.add_page(show("Page"))
    builder.attach("notes.txt", b"Words of the notes")
    spec = pikepdf.AttachedFileSpec(builder.pdf, b"Words of the note", filename="other.txt")
    builder.annotate(page, "FileAttachment", FS=spec.obj, Contents="see the file")
    builder.annotate(page, "FileAttachment", FS=builder.pdf.attachments["notes.txt"].obj)
    text = read(builder.save()).text
    assert text.count("Words of the notes") == 1
    assert text.count("Attachment: other.txt\n\nWords of the note") == 1
    assert "see the file" in text


def test_the_title_is_that_of_the_information_or_else_of_the_metadata() -> None:
    assert read(build_pdf("Told", [["x"]])).title == "Told"
    builder = PdfBuilder()
    builder.add_page(show("words"))
    with builder.pdf.open_metadata(set_pikepdf_as_editor=False, update_docinfo=False) as metadata:
        metadata["dc:title"] = "Snails & slugs"
        metadata["dc:format"] = "application/pdf"
    assert read(builder.save()).title == "Snails & slugs"


@pytest.mark.parametrize("revision", [2, 3, 4, 6])
def test_encryption_without_a_password_for_reading_is_no_obstacle(revision: int) -> None:
    builder = PdfBuilder()
    builder.add_page(show("Words of a protected document"))
    old = {} if revision > 4 else {"aes": revision == 4, "metadata": revision == 4}
    locked = pikepdf.Encryption(owner="owner", user="", R=revision, **old)
    assert read(builder.save(encryption=locked)).text == "Words of a protected document"
    closed = pikepdf.Encryption(owner="owner", user="user", R=revision, **old)
    assert fail(builder.save(encryption=closed)).code == "encrypted_document"


def test_damage_that_readers_repair_is_repaired() -> None:
    """A broken table of objects, junk before the header, data behind the end."""
    body = build_pdf("T", [["words of page one"], ["words of page two"]])
    expected = "words of page one\n\nwords of page two"
    at = body.index(b"xref\n0")
    for damaged in (
        body[:at] + body[at:].replace(b"00000 n", b"99999 n"),
        body[: body.rindex(b"startxref")] + b"startxref\n7\n%%EOF\n",
        body + b"\r\n<!-- appended by a gateway -->" * 20,
        b"\r\n\r\n" + body,
    ):
        assert read(damaged).text == expected


def test_a_page_that_cannot_be_read_fails_the_file_by_its_number() -> None:
    """A count that is larger than the tree, a page that is no dictionary, a tree that contains itself."""
    body = build_pdf("T", [["words"], ["more words"]])
    error = fail(body.replace(b"/Count 2", b"/Count 3"))
    assert (error.code, "page 3 of 3" in str(error)) == ("corrupt_document", True)
    error = fail(body.replace(b"/Kids [4 0 R 6 0 R]", b"/Kids [4 0 R 9 0 R]"))
    assert (error.code, "page 2 of 2" in str(error)) == ("corrupt_document", True)
    looped = body.replace(b"/Kids [4 0 R 6 0 R]", b"/Kids [4 0 R 2 0 R]")
    assert fail(looped).code == "corrupt_document"


def test_a_file_that_is_cut_short_is_damaged() -> None:
    body = build_pdf("T", [["some words on a page"] * 20] * 8)
    for end in range(1_000, len(body) - 200, len(body) // 7):
        assert fail(body[:end]).code == "corrupt_document"
