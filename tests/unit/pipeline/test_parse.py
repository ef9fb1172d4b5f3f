"""Every format returns its whole text; every unreadable file has its own error code."""

# ruff: noqa: RUF001 - the tests contain texts in many scripts

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, PageSpan, RawObject, TextFormat
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus import formats
from support.corpus.broken import build_encrypted_ooxml, build_gzip_bomb, build_noise, build_png, build_zip_bomb
from support.corpus.pdf import build_pdf

LIMITS = FrozenLimits(decompressed_max_bytes=1024 * 1024)
SECTIONS = (
    ("First part", ("Snails & <slugs> in Köln.", "A *starred* one 😀 [x].")),
    ("Second part", ("The third paragraph.",)),
)
ALL_TEXTS = (
    "First part",
    "Snails & <slugs> in Köln.",
    "A *starred* one 😀 [x].",
    "Second part",
    "The third paragraph.",
)


def make_raw(key: str, body: bytes, content_type: str | None = None) -> RawObject:
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    return RawObject(ref, body, content_type, {"team": "docs"})


def read(key: str, body: bytes, content_type: str | None = None) -> Document:
    return parse_bytes(make_raw(key, body, content_type), LIMITS)


def fail(key: str, body: bytes, content_type: str | None = None) -> ObjectError:
    with pytest.raises(ObjectError) as caught:
        read(key, body, content_type)
    return caught.value


@pytest.mark.parametrize(
    ("key", "body", "content_type"),
    [
        ("a.docx", formats.build_docx("Title", SECTIONS), "wordprocessingml.document"),
        ("a.pptx", formats.build_pptx("Title", SECTIONS), "presentationml.presentation"),
        ("a.epub", formats.build_epub("Title", SECTIONS), "application/epub+zip"),
        ("a.html", formats.build_html("Title", SECTIONS), "text/html"),
        ("a.md", formats.build_markdown("Title", SECTIONS), "text/markdown"),
        ("a.rtf", formats.build_rtf("Title", SECTIONS), "application/rtf"),
        ("a.xml", formats.build_xml("Title", SECTIONS), "application/xml"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_text_of_structured_formats_is_whole(key: str, body: bytes, content_type: str) -> None:
    """Headings, paragraphs, special characters and emoji are kept in order, and the title is found."""
    document = read(key, body)
    assert document.content_type.endswith(content_type)
    places = [document.text.index(text) for text in ALL_TEXTS]
    assert places == sorted(places)
    assert document.title == "Title"
    assert document.metadata == {"team": "docs"}


def test_headings_become_markdown() -> None:
    """Formats with headings are cut at them."""
    for key, body in (("a.docx", formats.build_docx("T", SECTIONS)), ("a.html", formats.build_html("T", SECTIONS))):
        document = read(key, body)
        assert document.text_format is TextFormat.MARKDOWN
        assert "\n\n## Second part\n\n" in document.text


def test_pdf_pages_are_spans_of_the_text() -> None:
    """Page numbers count blank pages; every span slices its page's text out."""
    document = read("a.pdf", build_pdf("My title", [["Page one."], [], ["Page three (last)."]]))
    assert document.title == "My title"
    assert [(span.page, document.text[span.start_char : span.end_char]) for span in document.pages] == [
        (1, "Page one."),
        (3, "Page three (last)."),
    ]


def test_pdf_repeats_and_tables_stay_once() -> None:
    """Running headers of every page are kept, and text that looks like a table is not doubled."""
    pages = [["ACME Corp confidential header", f"Body of page {i} speaks.", f"- {i} -"] for i in range(1, 6)]
    text = read("a.pdf", build_pdf(None, pages)).text
    assert text.count("ACME Corp confidential header") == 5
    assert [text.count(f"Body of page {i} speaks.") for i in range(1, 6)] == [1] * 5


def test_slides_are_pages_with_tables_groups_and_notes() -> None:
    """Tables, grouped shapes and speaker notes belong to their slide; empty slides keep their number."""
    import pptx
    from pptx.util import Inches

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Slide & title"
    table = slide.shapes.add_table(1, 2, 0, 0, Inches(2), Inches(1)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "left & cell", "right"
    slide.shapes.add_group_shape().shapes.add_textbox(0, 0, 9, 9).text_frame.text = "in a group"
    slide.notes_slide.notes_text_frame.text = "Speaker note"
    deck.slides.add_slide(deck.slide_layouts[6])
    deck.slides.add_slide(deck.slide_layouts[1]).shapes.title.text = "Last"
    buffer = io.BytesIO()
    deck.save(buffer)
    document = read("a.pptx", buffer.getvalue())
    first = document.text[document.pages[0].start_char : document.pages[0].end_char]
    assert first == "## Slide & title\n\nleft & cell | right\n\nin a group\n\nSpeaker note"
    assert [span.page for span in document.pages] == [1, 3]
    assert document.title == "Slide & title"


def test_word_tables_lists_headers_and_notes_are_kept() -> None:
    """Nothing outside plain paragraphs is lost."""
    import docx

    source = docx.Document()
    source.add_paragraph("a & b < c > d")
    table = source.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "c1", "c&2"
    source.add_paragraph("Top", style="Heading 1")
    source.sections[0].header.paragraphs[0].text = "Page header"
    buffer = io.BytesIO()
    source.save(buffer)
    document = read("a.docx", buffer.getvalue())
    assert document.text == "a & b < c > d\n\nc1 | c&2\n\n# Top\n\nPage header"
    assert document.title == "Top"


def test_workbook_rows_carry_their_column_names() -> None:
    """Each row of each sheet is a line; numbers are as stored; hidden and later sheets are included."""
    sheets = [("People", [["name", "age"], ["Ada", 36], ["Bob", 3.5], [None, 1]]), ("Empty", []), ("Last", [["x"]])]
    document = read("a.xlsx", formats.build_xlsx("Book", sheets))
    assert document.text == "## People\n\nname: Ada; age: 36\nname: Bob; age: 3.5\nage: 1\n\n## Last\n\nx"
    assert document.title == "Book"


def test_long_workbooks_are_not_cut() -> None:
    """The last of many rows is included."""
    body = formats.build_xlsx("Long", [("S", [["id", "v"], *([f"row {i}", "x"] for i in range(12_000))])])
    text = parse_bytes(make_raw("a.xlsx", body), FrozenLimits()).text
    assert text.count("\n") == 12_001
    assert text.endswith("id: row 11999; v: x")


def test_csv_rows_carry_their_column_names() -> None:
    """Quoted delimiters are part of their cell, and other delimiters are found."""
    rows = [["name", "city"], ["Ada", "Lon,don"], ["Bob", ""]]
    assert read("a.csv", formats.build_csv(rows)).text == "name: Ada; city: Lon,don\nname: Bob"
    assert read("b.csv", formats.build_csv(rows, delimiter=";")).text == "name: Ada; city: Lon,don\nname: Bob"
    assert read("c.tsv", b"1\t2\n3\t4\n").text == "1 | 2\n3 | 4"


def test_json_keeps_digits_doubled_keys_and_paths() -> None:
    """Values are lines under the path of their keys, exactly as written."""
    body = b'{"title": "T", "n": 1.10, "d": {"x": [1, 2], "o": [{"k": "v"}, {"k": "w"}]}, "e": null, "n": true}'
    document = read("a.json", body)
    assert document.text == "title: T\nn: 1.10\nd.x: 1, 2\n\nd.o.k: v\n\nd.o.k: w\n\ne: null\nn: true"
    assert document.title == "T"
    assert read("noname", body).content_type == "application/json"


@pytest.mark.parametrize(
    "body",
    [b'{"a": 1', b'[{"a": 1},', b'{"a": "x', b'{"a": "x\\u00', b'["a", tru', b'{"a": 1, "b"', b'{"a": [', b"[" * 9999],
)  # fmt: skip
def test_json_that_is_cut_short_fails(body: bytes) -> None:
    """Nothing says what is missing."""
    assert fail("a.json", body).code == "corrupt_document"


@pytest.mark.parametrize(
    "text",
    ['{"a" 1}', '[{"a": 1} {"a": 2}]', '[{"a": 1}] x', "{a: 1}", '{"a": [{"b": }]}', "{'a': 1}", "{{ name }}: {}",
     '{"a": 1}\n' + "no JSON at all\n" * 3],
)  # fmt: skip
def test_what_is_no_json_is_read_as_text(text: str) -> None:
    """None of its words is lost."""
    document = read("a.json", text.encode())
    assert (document.text, document.content_type, document.warnings) == (text, "text/plain", ())


def test_json_of_every_shape() -> None:
    """Lists in lists, scalars alone, mixed and empty lists."""
    assert read("a.json", b'"only"').text == "only"
    assert read("a.json", b'["x", 2, true]').text == "x\n2\ntrue"
    assert read("a.json", b'[[{"a": 1}], [{"a": 2}, {}], []]').text == "a: 1\n\na: 2\n\n{}\n\n[]"
    assert read("a.json", b'{"l": [], "o": {}, "m": [1, {"k": 2}], "n": [{"k": [3, 4]}]}').text == (
        "l: []\no: {}\n\nm: 1\n\nm.k: 2\n\nn.k: 3, 4"
    )


def test_json_lines_are_blocks() -> None:
    """Each record is a block; U+2028 inside a string does not end a line."""
    body = '{"a": 1}\n\n{"a": "x\u2028y"}\n'.encode()
    assert read("a.jsonl", body).text == "a: 1\n\na: x\u2028y"
    assert read("unnamed", body).content_type == "application/x-ndjson"


def test_xml_keeps_running_text_and_attributes() -> None:
    """Mixed content with nested elements stays one sentence, in the declared encoding."""
    head = "<?xml version='1.0' encoding='iso-8859-1'?>"
    body = "<r a='1'><p>Hé <b href='u'>big <i>w</i></b> on</p><q><b>x</b> y</q></r>"
    assert read("a.xml", (head + body).encode("latin-1")).text == "r.a: 1\nb.href: u\np: Hé big w on\nq: x y"


@pytest.mark.parametrize("before", ["\n", "\ufeff\r\n \t\n", " "])
def test_xml_behind_blank_lines(before: str) -> None:
    """What stands before the declaration, invisible, does not matter."""
    body = before + '<?xml version="1.0"?><rss><title>Feed</title><item>words</item></rss>'
    for key in ("a.xml", "noname"):
        assert read(key, body.encode()).text == "title: Feed\nitem: words"


def test_xml_entity_bombs_fail() -> None:
    """A document with unlimited entity expansion fails as damaged and does not hang."""
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 20}">' for i in range(1, 9))
    body = f'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY e0 "lololol">{entities}]><r>&e8;</r>'
    assert fail("a.xml", body.encode()).code == "corrupt_document"


def test_html_keeps_visible_text() -> None:
    """Navigation, tables, lists, code and image descriptions are text; scripts and styles are not."""
    body = (
        b"<html><title>T &amp; U</title><body><nav><a href='/x'>Nav</a></nav><script>var no;</script>"
        b"<style>no{}</style><table>"
        b"<tr><td>1</td><td>2 &lt;3</td></tr></table><ul><li><p>one</p><li>two <b>bold</b>s</ul>"
        b"<pre>code  x\n  y</pre><p>Line<br>break<img alt='Alt'></p><footer>Foot</footer>"
    )
    document = read("a.html", body)
    assert document.title == "T & U"
    assert document.text == "Nav\n\n1 | 2 <3\n\n- one\n- two bolds\n\n```\ncode  x\n  y\n```\n\nLine\nbreak Alt\n\nFoot"


def test_email_has_headers_body_and_attachments() -> None:
    """The text of an attachment follows; an unreadable one is listed with the reason."""
    document = read("a.eml", formats.build_eml("Grüße", ["Hello", "World"], attachment=b"a,b\r\n1,2\r\n"))
    assert document.title == "Grüße"
    assert document.text.startswith("Subject: Grüße\nFrom: Ada Example <ada@example.org>\nTo: bob@example.org\nDate: ")
    assert document.text.endswith("Hello\n\nWorld\n\nAttachment: table.csv\n\na: 1; b: 2")
    broken = read("b.eml", formats.build_eml("S", ["x"], attachment=build_noise(500, 1)))
    assert broken.text.endswith("Attachment: table.csv (not read: binary_content)")
    html = read("c.eml", formats.build_eml("S", ["Hi <b>"], html_only=True))
    assert html.text.endswith("\n\nHi <b>")


def test_rtf_tables_code_pages_and_symbols() -> None:
    """Cells, code pages per font, Unicode escapes and fields are kept; pictures and instructions are not."""
    body = (
        rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 A;}{\f1\fcharset204 B;}}{\info{\title My title}}"
        rb"\f0 Caf\'e9 {\b bold}s\par\trowd\intbl A1\cell B1\cell\row\pard \u8364? \{x\} {\f1 \'cf\'f0\'e8}"
        rb"{\*\shppict{\pict 8950}}\u-10179?\u-8704?{\field{\*\fldinst HYPERLINK x}{\fldrslt link}}\line L2\tab T}"
    )
    document = read("a.rtf", body)
    assert document.text == "Café bolds\n\nA1 | B1\n€ {x} При😀link\nL2\tT"
    assert document.title == "My title"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8-sig", "naïve – “café” 😀"),
        ("utf-16", "naïve – “café” 😀"),
        ("utf-16-le", "Plain words and naïve ones, some of them late.\n"),
        ("utf-16-be", "東京は日本の首都です。今日はとても良い天気ですね。"),
        ("utf-32", "naïve"),
        ("cp1252", "Die Straße führt über die Brücke – „täglich“, für 5 €."),
        ("latin-1", "L'été dernier, la forêt près de Besançon."),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy. Praha je hlavní město."),
        ("cp1251", "Съешь же ещё этих мягких французских булок, да выпей чаю."),
        ("koi8-r", "Съешь же ещё этих мягких французских булок, да выпей чаю."),
        ("cp1253", "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας. Σήμερα ο καιρός είναι καλός."),
        ("shift_jis", "東京は日本の首都です。今日はとても良い天気ですね。カタカナも使います。"),
        ("euc_jp", "東京は日本の首都です。今日はとても良い天気ですね。カタカナも使います。"),
        ("iso2022_jp", "東京は日本の首都です。"),
        ("gb18030", "北京是中华人民共和国的首都。今天天气很好，我们去公园散步吧。"),
        ("big5", "臺北是中華民國的首都。今天天氣很好，我們去公園散步吧。"),
        ("euc_kr", "서울은 대한민국의 수도입니다. 오늘은 날씨가 매우 좋습니다."),
    ],
)
def test_plain_text_in_common_encodings(encoding: str, text: str) -> None:
    """A sentence is enough to detect its encoding."""
    assert read("a.txt", (text + "\n").encode(encoding)).text == text + "\n"


def test_declared_encodings_decide_where_bytes_do_not() -> None:
    """The header's charset is used when the bytes are not UTF-8."""
    text = "Çok güzel bir gün, şimdi ağaç."
    assert read("a.txt", text.encode("cp1254"), "text/plain; charset=windows-1254").text == text
    assert read("a.txt", text.encode(), "text/plain; charset=iso-8859-1").text == text
    page = formats.build_html("Größe", [("é", ["ü"])], charset="iso-8859-1")
    assert read("a.html", page).text == "# Größe\n\n## é\n\nü"


def test_texts_are_cleaned() -> None:
    """Line ends are one character; NULs, other controls and the byte order mark are removed."""
    assert read("a.txt", b"\xef\xbb\xbfa" + b"b" * 200 + b"\r\nc\rd\x00e\x0bf").text == "a" + "b" * 200 + "\nc\nde\nf"


def test_damaged_utf8_stays_utf8() -> None:
    """A cut last character or a stray byte does not turn the rest into another encoding."""
    assert read("a.txt", ("naïve café " * 20).encode() + b"\xff").text == "naïve café " * 20 + "\ufffd"
    assert read("a.txt", "日本語テキスト".encode()[:-1]).text == "日本語テキス\ufffd"


def test_gzip_files_are_read_as_their_content() -> None:
    """The inner file decides: its type by content, its name without the suffix; several members are one file."""
    assert read("a.csv.gz", formats.build_gzip(b"a,b\n1,2\n")).text == "a: 1; b: 2"
    assert read("a.pdf.gz", formats.build_gzip(build_pdf(None, [["inside"]]))).pages == (PageSpan(1, 0, 6),)
    assert read("a.txt.gz", formats.build_gzip(b"one ") + formats.build_gzip(b"two")).text == "one two"


def test_content_wins_over_name() -> None:
    """A readable file with a wrong name or type is read by its content."""
    assert read("a.pdf", b"<!doctype html><body>hi</body>").content_type == "text/html"
    assert read("a.pdf", b"just text").content_type == "text/plain"
    assert read("a.txt", build_pdf(None, [["x"]])).content_type == "application/pdf"
    assert read("a.png", b"version https://git-lfs.example/spec/v1\n").content_type == "text/plain"
    assert read("noname", formats.build_eml("S", ["x"])).content_type == "message/rfc822"
    assert read("noname", b"# x", "text/markdown").content_type == "text/markdown"


DOCX = formats.build_docx("T", SECTIONS)
PDF = build_pdf("T", [["some words on a page"] * 20] * 3)


@pytest.mark.parametrize(
    ("code", "key", "body"),
    [
        ("empty_document", "a.txt", b""),
        ("empty_document", "a.txt", b" \r\n\t "),
        ("empty_document", "a.txt", "\ufeff \n".encode()),
        ("empty_document", "a.gz", formats.build_gzip(b"")),
        ("no_text", "a.pdf", build_pdf("Scan", [[], []])),
        ("no_text", "a.json", b"{}"),
        ("no_text", "a.html", b"<html><script>x</script></html>"),
        (
            "no_text",
            "a.docx",
            formats.build_docx("Title in properties only", ())[:0] or formats.build_xlsx("x", [("S", [])]),
        ),
        ("binary_content", "a.bin", build_noise(3000, 1)),
        ("binary_content", "a", bytes(2000)),
        ("unsupported_type", "a.png", build_png()),
        ("unsupported_type", "a.zip", formats.build_zip([("x.txt", b"x")])),
        ("unsupported_type", "a.tar.gz", formats.build_gzip(b"x.txt".ljust(257, b"\0") + b"ustar\x0000" + bytes(300))),
        ("unsupported_type", "a.gz", formats.build_gzip(formats.build_gzip(b"x"))),
        ("encrypted_document", "a.pdf", build_pdf(None, [["x"]], password="corpus")),
        ("encrypted_document", "a.docx", build_encrypted_ooxml(1)),
        ("corrupt_document", "a.pdf", PDF[: len(PDF) // 2]),
        ("corrupt_document", "a.pdf", b"%PDF-1.7\n" + b"\x93\x01" * 500 + b"startxref\n%%EOF"),
        ("corrupt_document", "a.docx", DOCX[: len(DOCX) // 2]),
        ("corrupt_document", "a.docx", DOCX[:60]),
        (
            "corrupt_document",
            "a.docx",
            formats.build_zip([("[Content_Types].xml", b""), ("word/document.xml", b"<w:p")]),
        ),
        ("corrupt_document", "a.docx", formats.build_zip([("[Content_Types].xml", b""), ("word/styles.xml", b"<s/>")])),
        ("corrupt_document", "a.xlsx", formats.build_xlsx("T", [("S", [["x"]])])[:3000]),
        ("corrupt_document", "a.epub", formats.build_epub("T", SECTIONS)[:900]),
        ("corrupt_document", "a.rtf", formats.build_rtf("T", SECTIONS)[:-3]),
        ("corrupt_document", "a.gz", formats.build_gzip(build_noise(3000, 1))[:1500]),
        ("corrupt_document", "a.gz", formats.build_gzip(b"text")[:-4] + b"\xff\xff\xff\xff"),
        ("corrupt_document", "a.json", b'{"a": ['),
        ("corrupt_document", "a.jsonl", b'{"a": "the only line, cut'),
        ("corrupt_document", "a.xml", b"<a><b>x</b>"),
        ("type_mismatch", "a.pdf", build_png()),
        ("type_mismatch", "a.txt", build_png()),
        ("type_mismatch", "a.docx", build_noise(3000, 2)),
        ("type_mismatch", "a.docx", formats.build_zip([("x.txt", b"x")])),
        ("decompressed_too_large", "a.gz", build_gzip_bomb(3 << 20)),
        ("decompressed_too_large", "a.docx", build_zip_bomb(3 << 20)),
    ],
)
def test_bad_files_have_their_code(code: str, key: str, body: bytes) -> None:
    """An unreadable file fails with a stable code, and the message does not contain its content."""
    error = fail(key, body)
    assert error.code == code, error.message
    assert len(error.message) < 400


def test_refusals_name_the_type() -> None:
    """The reason names the type of the file, and a photo declared as text is still a photo."""
    assert "image/png" in fail("a.png", build_png()).message
    assert fail("photo.png", build_png(), "text/html").code == "unsupported_type"
    assert fail("photo", build_png(), "application/pdf").code == "type_mismatch"


def test_an_unexpected_parser_error_fails_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any exception of a reader becomes parse_failed and names the type of the exception."""

    def explode(_text: str) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("ingestion_engine.pipeline.parsing.formats.tables.render_csv", explode)
    error = fail("a.csv", b"a,b\n1,2\n")
    assert (error.code, "KeyError" in error.message) == ("parse_failed", True)


def test_parsing_again_gives_the_same() -> None:
    """Every format is deterministic."""
    files: list[tuple[str, Callable[[], bytes]]] = [
        ("a.pdf", lambda: build_pdf("T", [["x y z"] * 30] * 3)),
        ("a.docx", lambda: formats.build_docx("T", SECTIONS)),
        ("a.xlsx", lambda: formats.build_xlsx("T", [("S", [["a", "b"], ["1", "2"]])])),
        ("a.txt", lambda: "Größe und Länge".encode("cp1252")),
    ]
    for key, build in files:
        assert build() == build()
        assert read(key, build()) == read(key, build())
