"""Word files: all text is read, once, in order, and without what is deleted or only a copy."""

# ruff: noqa: RUF001 - the tests contain texts in many scripts

from __future__ import annotations

import struct
import time

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus import formats
from support.corpus.broken import build_compound
from support.corpus.pdf import build_pdf
from support.office import NAMESPACES, Parts, Relations, build_word, cell, damage, paragraph, table

LIMITS = FrozenLimits(decompressed_max_bytes=64 * 1024 * 1024)


def read_file(body: bytes) -> Document:
    ref = ObjectRef("docs", "a.docx", "etag", len(body), "2024-01-02T03:04:06Z")
    return parse_bytes(RawObject(ref, body, None, {}), LIMITS)


def read(body: str, parts: Parts | None = None, relations: Relations = ()) -> str:
    return read_file(build_word(body, parts, relations)).text


def run(content: str) -> str:
    return f"<w:r>{content}</w:r>"


def line(*runs: str) -> str:
    """A paragraph of runs: with this XML, or with this text."""
    texts = (content if content.startswith("<") else f"<w:t>{content}</w:t>" for content in runs)
    return f"<w:p>{''.join(content if content.startswith('<m:') else run(content) for content in texts)}</w:p>"


def box(text: str) -> str:
    """A text box as Word stores it: a new form, and the same for old programs."""
    inside = f"<w:txbxContent>{paragraph(text)}</w:txbxContent>"
    new = f"<w:drawing><wps:txbx>{inside}</wps:txbx></w:drawing>"
    old = f"<w:pict><v:shape><v:textbox>{inside}</v:textbox></v:shape></w:pict>"
    return f"<mc:AlternateContent><mc:Choice>{new}</mc:Choice><mc:Fallback>{old}</mc:Fallback></mc:AlternateContent>"


def field(kind: str, inside: str = "") -> str:
    return run(f'<w:fldChar w:fldCharType="{kind}">{inside}</w:fldChar>')


def code(text: str) -> str:
    return run(f"<w:instrText>{text}</w:instrText>")


WRAPPERS = [
    "<w:sdt><w:sdtPr><w:alias w:val='x'/></w:sdtPr><w:sdtContent>{}</w:sdtContent></w:sdt>",
    "<w:ins>{}</w:ins>",
    "<w:moveTo>{}</w:moveTo>",
    "<w:customXml w:element='x'><w:customXmlPr/>{}</w:customXml>",
    "<w:smartTag w:element='x'>{}</w:smartTag>",
    "<w:sdt><w:sdtContent><w:ins>{}</w:ins></w:sdtContent></w:sdt>",
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_text_counts_wherever_a_mark_is_around_it(wrapper: str) -> None:
    row = f"<w:tr>{cell('left')}{cell('right')}</w:tr>"
    assert read(wrapper.format(paragraph("a block"))) == "a block"
    assert read(f"<w:p>{wrapper.format(run('<w:t>a run</w:t>'))}</w:p>") == "a run"
    assert read(f"<w:tbl>{wrapper.format(row)}<w:tr>{cell('7')}{cell('8')}</w:tr></w:tbl>") == (
        "| left | right |\n| --- | --- |\n| 7 | 8 |"
    )
    assert read(f"<w:tbl><w:tr>{wrapper.format(cell('1'))}{cell('2')}</w:tr></w:tbl>") == "1 | 2"
    assert read(f"<w:tbl><w:tr><w:tc>{wrapper.format(paragraph('1'))}</w:tc>{cell('2')}</w:tr></w:tbl>") == "1 | 2"


def test_tables_keep_the_places_of_their_cells() -> None:
    span = "<w:tc><w:tcPr><w:gridSpan w:val='2'/></w:tcPr>" + paragraph("both") + "</w:tc>"
    down = "<w:tc><w:tcPr><w:vMerge/></w:tcPr><w:p/></w:tc>"
    text = read(table(cell("name") + cell("city") + cell("age"), cell("Ada") + span, down + cell("a|b") + cell("36")))
    assert text == "| name | city | age |\n| --- | --- | --- |\n| Ada | both |  |\n|  | a\\|b | 36 |"


def test_the_row_that_word_repeats_on_every_page_is_a_header() -> None:
    header = f"<w:tr><w:trPr><w:tblHeader/></w:trPr>{cell('2019')}{cell('2020')}</w:tr>"
    assert (
        read(f"<w:tbl>{header}<w:tr>{cell('1')}{cell('2')}</w:tr></w:tbl>")
        == "| 2019 | 2020 |\n| --- | --- |\n| 1 | 2 |"
    )
    assert read(table(cell("17") + cell("x"), cell("18") + cell("y"))) == "17 | x\n18 | y"


def test_tables_for_the_layout_are_paragraphs() -> None:
    assert read(table(cell(paragraph("one") + paragraph("two")), cell("three"))) == "one\n\ntwo\n\nthree"


def test_a_table_inside_a_cell_is_text_once_and_in_its_place() -> None:
    inner = table(cell("a") + cell("b"), cell("1") + cell("2"))
    outer = cell(paragraph("before") + inner + paragraph("after")) + cell("beside")
    text = read(table(cell("x") + cell("y"), outer, cell("5") + cell("6")))
    assert text == "x | y\n\nbefore\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nafter\n\nbeside\n\n5 | 6"


def test_text_boxes_are_apart_and_once() -> None:
    assert read(line("before", box("in a box"), "<w:t> after</w:t>")) == "before after\n\nin a box"
    assert read(table(cell(line(box("boxed"))) + cell("beside"))) == "boxed | beside"


def test_the_old_form_of_a_drawing_counts_where_the_new_one_has_no_text() -> None:
    shape = f"<v:shape><v:textbox><w:txbxContent>{paragraph('old')}</w:txbxContent></v:textbox></v:shape>"
    old = f'<w:pict>{shape}<v:shape><v:textpath string="WordArt"/></v:shape></w:pict>'
    forms = f"<mc:Choice><w:drawing/></mc:Choice><mc:Fallback>{old}</mc:Fallback>"
    assert read(line(f"<mc:AlternateContent>{forms}</mc:AlternateContent>")) == "old\n\nWordArt"


def test_pictures_have_their_description() -> None:
    picture = '<w:drawing><wp:inline><wp:docPr id="1" name="Picture 1" descr="{}" title="{}"/></wp:inline></w:drawing>'
    assert read(line(picture.format("A map of Köln", ""))) == "A map of Köln"
    assert read(line(picture.format("with roads", "A map"))) == "A map: with roads"
    assert read(line("x", picture.format("C:\\files\\map.PNG", ""))) == "x"
    assert read(line('<w:pict><v:shape alt="A logo"/></w:pict>')) == "A logo"
    assert read(line(picture.format("How to read map.png", ""))) == "How to read map.png"


def test_deleted_text_is_left_out() -> None:
    deleted = '<w:del w:id="1"><w:r><w:delText>gone</w:delText><w:t>gone too</w:t></w:r></w:del>'
    moved = (
        f"<w:moveFrom>{run('<w:t>moved away</w:t>')}</w:moveFrom><w:moveTo>{run('<w:t>moved here</w:t>')}</w:moveTo>"
    )
    assert read(f"<w:p>{run('<w:t>kept </w:t>')}{deleted}{moved}</w:p>") == "kept moved here"
    row = f"<w:tr><w:trPr><w:del w:id='2'/></w:trPr>{cell('gone')}{cell('gone')}</w:tr>"
    assert read(f"<w:tbl>{row}<w:tr>{cell('1')}{cell('2')}</w:tr></w:tbl>") == "1 | 2"
    gone = f"<w:tc><w:tcPr><w:cellDel w:id='3'/></w:tcPr>{paragraph('gone')}</w:tc>"
    assert read(table(cell("1") + gone + cell("2"))) == "1 | 2"


def test_paragraphs_whose_border_is_deleted_are_one() -> None:
    first = f"<w:p><w:pPr><w:rPr><w:del w:id='1'/></w:rPr></w:pPr>{run('<w:t>one </w:t>')}</w:p>"
    assert read(first + paragraph("sentence") + paragraph("next")) == "one sentence\n\nnext"
    assert read(first) == "one"


def test_a_style_before_a_change_does_not_count() -> None:
    change = (
        "<w:pPrChange><w:pPr><w:pStyle w:val='Heading1'/><w:numPr><w:numId w:val='1'/></w:numPr></w:pPr></w:pPrChange>"
    )
    assert read(f"<w:p><w:pPr>{change}</w:pPr>{run('<w:t>plain</w:t>')}</w:p>") == "plain"


def test_fields_show_their_result() -> None:
    inner = field("begin") + code("REF x") + field("separate") + run("<w:t>no</w:t>") + field("end")
    whole = field("begin") + code("IF ") + inner + run("<w:t>code</w:t>") + field("separate") + run("<w:t>result</w:t>")
    assert read(f"<w:p>{run('<w:t>a </w:t>')}{whole}{field('end')}{run('<w:t> b</w:t>')}</w:p>") == "a result b"
    entry = field("begin") + code('XE "entry"') + field("end")
    assert read(f"<w:p>{entry}{run('<w:t>text</w:t>')}</w:p>") == "text"


def test_a_field_that_never_ends_loses_nothing() -> None:
    assert read(f"<w:p>{field('begin')}{run('<w:t>kept</w:t>')}</w:p>{paragraph('also')}") == "kept\n\nalso"


def test_forms_have_their_values() -> None:
    box_on = "<w:ffData><w:checkBox><w:default w:val='0'/><w:checked/></w:checkBox></w:ffData>"
    box_off = "<w:ffData><w:checkBox><w:default w:val='0'/></w:checkBox></w:ffData>"
    entries = "<w:listEntry w:val='red'/><w:listEntry w:val='blue'/>"
    choices = f"<w:ffData><w:ddList><w:result w:val='1'/>{entries}</w:ddList></w:ffData>"
    fields = "".join(
        field("begin", data) + code("FORM") + field("end") + run("<w:t> </w:t>") for data in (box_on, box_off, choices)
    )
    assert read(f"<w:p>{fields}</w:p>") == "☒ ☐ blue"


def test_readings_follow_their_characters() -> None:
    reading = f"<w:rt>{run('<w:t>かんじ</w:t>')}</w:rt><w:rubyBase>{run('<w:t>漢字</w:t>')}</w:rubyBase>"
    assert read(line(f"<w:ruby><w:rubyPr/>{reading}</w:ruby>", "です")) == "漢字(かんじ)です"
    equation = code(" EQ \\* jc2 \\* hps10 \\o\\ad(\\s\\up 9(かんじ),漢字)")
    assert read(f"<w:p>{field('begin')}{equation}{field('end')}</w:p>") == "(かんじ),漢字"


def test_symbols_are_unicode() -> None:
    symbol = '<w:sym w:font="{}" w:char="{}"/>'
    arrow = '<w:rPr><w:rFonts w:ascii="Wingdings"/></w:rPr><w:t>\uf0e0</w:t>'
    text = read(line(symbol.format("Symbol", "F061"), symbol.format("Wingdings", "F0FE"), arrow, "\uf0b7 item"))
    assert text == "α☑→• item"
    document = read_file(build_word(line("x", *[symbol.format("Webdings", "F0AA")] * 3)))
    assert [(warning.code, warning.count) for warning in document.warnings] == [("text_without_unicode", 3)]


def test_equations_keep_their_signs() -> None:
    def char(text: str) -> str:
        return f"<m:r><w:rPr><w:del/></w:rPr><m:t>{text}</m:t></m:r>"

    fraction = f"<m:f><m:fPr/><m:num>{char('1')}</m:num><m:den>{char('2')}</m:den></m:f>"
    power = f"<m:sSup><m:e>{char('x')}</m:e><m:sup>{char('n+1')}</m:sup></m:sSup>"
    root = f"<m:rad><m:deg/><m:e>{char('y')}</m:e></m:rad>"
    brackets = f"<m:d><m:dPr><m:begChr m:val='['/><m:endChr m:val=']'/></m:dPr><m:e>{char('z')}</m:e></m:d>"
    rows = f"<m:mr><m:e>{char('a')}</m:e><m:e>{char('b')}</m:e></m:mr><m:mr><m:e>{char('c')}</m:e></m:mr>"
    equation = f"<m:oMath>{char('+').join([fraction, power, root, brackets, f'<m:m>{rows}</m:m>'])}</m:oMath>"
    assert read(line("<w:t>so </w:t>", equation)) == "so 1/2+x^(n+1)+√y+[z]+a, b; c"
    assert read(f"<m:oMathPara>{equation}</m:oMathPara>{paragraph('end')}") == "1/2+x^(n+1)+√y+[z]+a, b; c\n\nend"


def test_hidden_text_is_text() -> None:
    """Word does not print it, but finds it; the same holds for hidden slides and sheets."""
    assert read(f"<w:p>{run('<w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t>')}</w:p>") == "hidden"


TEXT = "<c:tx><c:rich><a:p><a:r><a:t>Sales</a:t></a:r></a:p></c:rich></c:tx>"
PLOT = f"<c:chart><c:title>{TEXT}</c:title><c:plotArea>{{}}</c:plotArea></c:chart>"
CHART = f"<c:chartSpace {NAMESPACES}>{PLOT}</c:chartSpace>"


def series(name: str, *values: str) -> str:
    def points(*texts: str) -> str:
        return "".join(f'<c:pt idx="{n}"><c:v>{text}</c:v></c:pt>' for n, text in enumerate(texts))

    names = f"<c:tx><c:strRef><c:strCache>{points(name)}</c:strCache></c:strRef></c:tx>"
    categories = f"<c:cat><c:strRef><c:strCache>{points('May', 'June')}</c:strCache></c:strRef></c:cat>"
    numbers = f"<c:numCache><c:formatCode>General</c:formatCode>{points(*values)}</c:numCache>"
    return f"<c:ser>{names}{categories}<c:val><c:numRef>{numbers}</c:numRef></c:val></c:ser>"


def drawing(content: str) -> str:
    return f"<w:p>{run(f'<w:drawing>{content}</w:drawing>')}</w:p>"


def test_charts_are_tables_once() -> None:
    parts = {"word/charts/c.xml": CHART.format(series("Peru", "5", "0.30000000000000004") + series("Chile", "7", "8"))}
    links = [("c1", "chart", "charts/c.xml")]
    text = read(paragraph("before") + drawing('<c:chart r:id="c1"/>') * 2 + paragraph("after"), parts, links)
    assert text == (
        "before\n\nSales\n\n|  | Peru | Chile |\n| --- | --- | --- |\n| May | 5 | 7 |\n| June | 0.3 | 8 |\n\nafter"
    )


def test_numbers_of_charts_are_as_a_person_sees_them() -> None:
    def shown(code: str, value: str) -> str:
        chart = CHART.format(series("Peru", "1", value)).replace("General", code)
        return read(drawing('<c:chart r:id="c1"/>'), {"word/c.xml": chart}, [("c1", "chart", "c.xml")]).split("| ")[-1]

    assert shown("0.0%", "0.475") == "47.5 % |"
    assert shown("m/d/yyyy", "45429") == "2024-05-17 |"


def test_diagrams_are_lists_in_the_order_of_the_diagram() -> None:
    def point(name: str, text: str, kind: str = "node") -> str:
        return f'<dgm:pt modelId="{name}" type="{kind}"><dgm:t><a:p><a:r><a:t>{text}</a:t></a:r></a:p></dgm:t></dgm:pt>'

    points = (
        point("d", "", "doc") + point("2", "second") + point("1", "first") + point("3", "below") + point("9", "loose")
    )
    links = "".join(
        f'<dgm:cxn modelId="c{n}" srcId="{start}" destId="{end}" srcOrd="{order}"/>'
        for n, (start, end, order) in enumerate([("d", "1", 0), ("d", "2", 1), ("1", "3", 0), ("3", "1", 0)])
    )
    data = (
        f"<dgm:dataModel {NAMESPACES}><dgm:ptLst>{points}</dgm:ptLst><dgm:cxnLst>{links}</dgm:cxnLst></dgm:dataModel>"
    )
    text = read(drawing('<dgm:relIds r:dm="d1" r:lo="d2"/>'), {"word/d.xml": data}, [("d1", "diagramData", "d.xml")])
    assert text == "- first\n  - below\n- second\n- loose"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chunk.html", b"<html><body><p>imported</p></body></html>"),
        ("chunk.txt", b"imported"),
        ("chunk.rtf", rb"{\rtf1 imported}"),
        ("chunk.docx", build_word(paragraph("imported"))),
        ("chunk.mht", b"MIME-Version: 1.0\nSubject: x\nContent-Type: text/html\n\n<p>imported</p>"),
    ],
)
def test_imported_parts_are_text_in_their_place(name: str, content: bytes) -> None:
    body = paragraph("before") + '<w:altChunk r:id="x"/>' + paragraph("after")
    text = read(body, {f"word/{name}": content}, [("x", "aFChunk", name)])
    assert text.startswith("before\n\n")
    assert text.count("imported") == 1
    assert text.endswith("imported\n\nafter")


def test_embedded_files_are_text_or_a_warning() -> None:
    workbook = formats.build_xlsx("Budget", [("Sheet", [["name", "city"], ["Ada", "London"]])])
    body = line("see", '<w:object><o:OLEObject ProgID="Excel.Sheet.12" r:id="x"/></w:object>')
    links = [("x", "package", "embeddings/b.xlsx")]
    assert "London" in read(body, {"word/embeddings/b.xlsx": workbook}, links)
    for parts in ({"word/embeddings/b.xlsx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(900)}, {}):
        document = read_file(build_word(body, parts, links))
        assert document.text == "see"
        assert [(warning.code, warning.count) for warning in document.warnings] == [("part_unreadable", 1)]


def test_a_bomb_inside_of_a_document_costs_a_warning() -> None:
    bomb = build_word("", {"word/media/a.bmp": bytes(LIMITS.decompressed_max_bytes + 1)})
    body = build_word(
        paragraph("words") + '<w:altChunk r:id="x"/>', {"word/b.docx": bomb}, [("x", "aFChunk", "b.docx")]
    )
    document = read_file(body)
    assert document.text == "words"
    assert [(warning.code, warning.count) for warning in document.warnings] == [("part_unreadable", 1)]


def wrap_file(name: bytes, content: bytes) -> bytes:
    """What Windows stores of a file that is dropped into a document."""
    inside = b"\2\0" + name + b"\0C:\\" + name + b"\0\0\0\3\0" + struct.pack("<I", 4) + b"C:x\0"
    inside += struct.pack("<I", len(content)) + content
    return struct.pack("<I", len(inside)) + inside


@pytest.mark.parametrize(
    ("stream", "content"),
    [
        ("Package", build_word(paragraph("inside"), {"word/media/a.bin": bytes(range(256)) * 20})),
        ("CONTENTS", build_pdf(None, [["inside"]])),
        ("\x01Ole10Native", wrap_file(b"notes.md", b"inside")),
    ],
)
def test_files_inside_of_objects_are_text(stream: str, content: bytes) -> None:
    body = line("see", '<w:object><o:OLEObject ProgID="Package" r:id="x"/></w:object>')
    parts = {"word/embeddings/o.bin": build_compound({"\x01CompObj": b"x", stream: content})}
    assert read(body, parts, [("x", "oleObject", "embeddings/o.bin")]) == "see\n\ninside"


def test_a_damaged_chart_costs_a_warning() -> None:
    body = build_word(
        paragraph("words") + drawing('<c:chart r:id="c1"/>') + drawing('<c:chart r:id="none"/>'),
        {"word/charts/c.xml": CHART.format(series("Peru", "5"))},
        [("c1", "chart", "charts/c.xml")],
    )
    document = read_file(damage(body, "word/charts/c.xml"))
    assert document.text == "words"
    assert [(warning.code, warning.count) for warning in document.warnings] == [("part_unreadable", 2)]


def test_notes_comments_headers_and_footers_follow() -> None:
    def part(name: str, *texts: str) -> str:
        return f"<w:{name} {NAMESPACES}>{''.join(map(paragraph, texts))}</w:{name}>"

    parts = {
        "word/n1.xml": part("footnotes", "Ibid.", "Ibid."),
        "word/n2.xml": part("endnotes", "an endnote"),
        "word/n3.xml": part("comments", "a comment"),
        "word/h1.xml": part("hdr", "Report"),
        "word/h2.xml": part("hdr", "Report", "Draft"),
        "word/f1.xml": part("ftr", "Page"),
        "word/glossary/document.xml": part("document", "a building block"),
    }
    links = [
        ("a", "header", "h1.xml"), ("b", "header", "h2.xml"), ("c", "footer", "f1.xml"), ("d", "comments", "n3.xml"),
        ("e", "endnotes", "n2.xml"), ("f", "footnotes", "n1.xml"), ("g", "glossaryDocument", "glossary/document.xml"),
    ]  # fmt: skip
    blocks = read(paragraph("text"), parts, links).split("\n\n")
    assert blocks == ["text", "Ibid.", "Ibid.", "an endnote", "a comment", "Report", "Draft", "Page"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig", "windows-1252"])
def test_parts_may_be_in_any_encoding_of_xml(encoding: str) -> None:
    content = f"<w:document {NAMESPACES}><w:body>{paragraph('Größe')}</w:body></w:document>"
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig").removesuffix("-be")}"?>' + content
    data = b"\xfe\xff" * (encoding == "utf-16-be") + declared.encode(encoding)
    assert read_file(build_word("", {"word/document.xml": data})).text == "Größe"


def test_a_bomb_of_entities_fails() -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    text = f"<w:document {NAMESPACES}><w:p><w:t>&e11;</w:t></w:p></w:document>"
    content = f'<!DOCTYPE x [<!ENTITY e0 "words words words">{levels}]>{text}'
    with pytest.raises(ObjectError) as caught:
        read("", {"word/document.xml": content})
    assert caught.value.code == "corrupt_document"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("<w:sdt><w:sdtContent>", "</w:sdtContent></w:sdt>"),
        ("<w:tbl><w:tr><w:tc>", "</w:tc></w:tr></w:tbl>"),
        ("<w:tbl><w:tr><w:tc><w:p/></w:tc><w:tc>", "</w:tc></w:tr></w:tbl>"),
        ("<w:p><w:r><w:drawing><wps:txbx><w:txbxContent>", "</w:txbxContent></wps:txbx></w:drawing></w:r></w:p>"),
        ("<w:p><m:oMath><m:d><m:e>", "</m:e></m:d></m:oMath></w:p>"),
    ],
)
def test_any_depth_is_read_in_linear_time(start: str, end: str) -> None:
    def measure(depth: int) -> float:
        body = build_word(start * depth + paragraph("deep") + end * depth)
        began = time.process_time()
        assert "deep" in read_file(body).text
        return time.process_time() - began

    measure(10)
    shallow, deep = (min(measure(depth) for _ in range(3)) for depth in (5_000, 20_000))  # the machine may be busy
    assert deep < 12 * shallow + 0.2


def test_a_wide_table_does_not_take_the_memory_that_its_spans_declare() -> None:
    wide = "<w:tc><w:tcPr><w:gridSpan w:val='2000000000'/></w:tcPr>" + paragraph("x") + "</w:tc>"
    assert "x" in read(table(wide + wide, cell("1") + cell("2")))
