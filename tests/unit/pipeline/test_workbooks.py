"""Excel workbooks as Excel and other programs write them: every sheet, cell and text beside the cells, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.formats.office.excel.formulas import shift_formula
from ingestion_engine.pipeline.parsing.formats.office.excel.numbers import make_format, show_general
from ingestion_engine.pipeline.parsing.formats.office.excel.sheet import show_note
from ingestion_engine.pipeline.parsing.formats.office.excel.workbook import read_xlsx
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from support.office import DRAWING, RELATIONS, STRICT_RELATIONS, Relations, build_package, build_relations

LIMIT = 1 << 30
CELLS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
STRICT_CELLS = "http://purl.oclc.org/ooxml/spreadsheetml/main"
PLACES = "http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing"
CHART = "http://schemas.openxmlformats.org/drawingml/2006/chart"
THREADS = "http://schemas.microsoft.com/office/spreadsheetml/2018/threadedcomments"


def make_sheet(rows: str, rest: str = "", *, namespace: str = CELLS) -> str:
    return f'<worksheet xmlns="{namespace}"><sheetData>{rows}</sheetData>{rest}</worksheet>'


def make_row(*texts: str) -> str:
    cells = "".join(f'<c t="inlineStr"><is><t>{escape(text)}</t></is></c>' for text in texts)
    return f"<row>{cells}</row>"


def make_book(
    sheets: Sequence[str],
    parts: Mapping[str, str | bytes] | None = None,
    *,
    relations: Relations = (),
    rest: str = "",
    base: str = RELATIONS,
    namespace: str = CELLS,
    kinds: Sequence[str] = (),
) -> bytes:
    """A workbook of these sheets, named "S1", "S2" and so on, in parts with names of no pattern."""
    numbers = range(1, len(sheets) + 1)
    names = "".join(f'<sheet name="S{i}" sheetId="{i}" r:id="s{i}" state="hidden"/>' for i in numbers)
    kind_of = dict(enumerate(kinds, 1))
    links = [(f"s{i}", kind_of.get(i, "worksheet"), f"leaves/leaf-{i}.xml") for i in numbers]
    return build_package(
        "xl/book2.xml",
        f'<workbook xmlns="{namespace}" xmlns:r="{base}">{rest}<sheets>{names}</sheets></workbook>',
        {
            "xl/_rels/book2.xml.rels": build_relations([*links, *relations], base),
            **{f"xl/leaves/leaf-{i}.xml": sheet for i, sheet in zip(numbers, sheets, strict=True)},
            **(parts or {}),
        },
        base=base,
    )


def read(
    sheets: Sequence[str],
    parts: Mapping[str, str | bytes] | None = None,
    *,
    relations: Relations = (),
    rest: str = "",
    kinds: Sequence[str] = (),
) -> ParsedText:
    return read_xlsx(make_book(sheets, parts, relations=relations, rest=rest, kinds=kinds), LIMIT)


def read_cells(cells: str, **more: str) -> str:
    """The line of a sheet with one row of these cells."""
    return read([make_sheet(f"<row>{cells}</row>")], **more).text.removeprefix("## S1\n\n")


@pytest.mark.parametrize(("base", "namespace"), [(RELATIONS, CELLS), (STRICT_RELATIONS, STRICT_CELLS)])
def test_sheets_are_found_by_relation(base: str, namespace: str) -> None:
    """Whatever their parts are called, in transitional and strict files, hidden ones too, in the workbook's order."""
    sheets = [make_sheet(make_row(f"words {i}"), namespace=namespace) for i in (1, 2)]
    body = make_book(sheets, base=base, namespace=namespace)
    assert read_xlsx(body, LIMIT).text == "## S1\n\nwords 1\n\n## S2\n\nwords 2"


def test_names_with_a_prefix() -> None:
    """Some writers give every element a prefix."""
    sheet = (
        f'<x:worksheet xmlns:x="{CELLS}"><x:sheetData><x:row r="1"><x:c r="A1" t="s"><x:v>0</x:v></x:c>'
        '<x:c r="B1"><x:v>2</x:v></x:c></x:row></x:sheetData></x:worksheet>'
    )
    strings = f'<x:sst xmlns:x="{CELLS}"><x:si><x:t>words</x:t></x:si></x:sst>'
    parts = {"xl/strings.xml": strings}
    assert read([sheet], parts, relations=[("t", "sharedStrings", "strings.xml")]).text == "## S1\n\nwords | 2"


def test_strings() -> None:
    """Rich text is joined, readings of East Asian words are no text, escapes are characters."""
    strings = (
        f'<sst xmlns="{CELLS}"><si><r><t>ri</t></r><r><t xml:space="preserve">ch text</t></r></si>'
        "<si><t>東京</t><rPh sb='0' eb='2'><t>トウキョウ</t></rPh><phoneticPr/></si>"
        "<si><t>one_x000D_\ntwo _x005F_x000D_ R&amp;D</t></si></sst>"
    )
    sheet = make_sheet('<row><c t="s"><v>0</v></c><c t="s"><v>1</v></c><c t="s"><v>2</v></c></row>')
    text = read([sheet], {"xl/strings.xml": strings}, relations=[("t", "sharedStrings", "strings.xml")]).text
    assert text == "## S1\n\nrich text | 東京 | one two _x000D_ R&D"


def test_values() -> None:
    """Truth values, errors, ISO dates, text results, and numbers without the noise of floating point."""
    cells = (
        '<c t="b"><v>1</v></c><c t="b"><v>0</v></c><c t="e"><v>#N/A</v></c><c t="d"><v>2024-05-17T00:00:00</v></c>'
        '<c t="d"><v>2024-05-17T13:45:00Z</v></c><c t="str"><f>A1</f><v>a _x0041_</v></c>'
        "<c><v>0.30000000000000004</v></c><c><v>1E-3</v></c><c><v>12345678901234567890</v></c><c><v>1.5E+30</v></c>"
    )
    expected = (
        "TRUE | FALSE | #N/A | 2024-05-17 | 2024-05-17 13:45:00 | a A | 0.3 | 0.001 | 12345678901234567890 | 1.5E+30"
    )
    assert read_cells(cells) == expected


FORMATS = [
    ("0.475", "0.0%", "47.5 %"),
    ("0.07", "0%", "7 %"),
    ("-0.5", "0.00%;[Red]-0.00%", "-50 %"),
    ("45429", "yyyy-mm-dd", "2024-05-17"),
    ("45429", "[$-409]d\\-mmm\\-yyyy;@", "2024-05-17"),
    ("45429.572916666664", "m/d/yyyy h:mm", "2024-05-17 13:45:00"),
    ("45429.572916666664", 'dd"."mm"."yyyy', "2024-05-17 13:45:00"),
    ("0.572916666666667", "h:mm AM/PM", "13:45:00"),
    ("1.1041666666666667", "[h]:mm:ss", "26:30:00"),
    ("0.00001446759259", "mm:ss.0", "00:00:01.25"),
    ("0.00001446759259", "mm:ss", "00:00:01"),
    ("60", "yyyy-mm-dd", "1900-02-29"),
    ("1", "yyyy-mm-dd", "1900-01-01"),
    ("-5", "yyyy-mm-dd", "1899-12-25"),
    ("-1.5", "yyyy-mm-dd h:mm", "1899-12-28 12:00:00"),
    ("-1.5", "[h]:mm", "-36:00:00"),
    ("-1e6", "yyyy-mm-dd", "-1000000"),
    ("2958465", "yyyy-mm-dd", "9999-12-31"),
    ("2958465.9999999999", "yyyy-mm-dd h:mm", "2958466"),
    ("1e9", "yyyy-mm-dd", "1000000000"),
    ("1234.5", "#,##0.00", "1234.5"),
    ("1234.5", '_-* #,##0.00\\ "€"_-;\\-* #,##0.00\\ "€"_-', "1234.5 €"),
    ("-1599.99", '"$"#,##0.00_);[Red]\\("$"#,##0.00\\)', "-$1599.99"),
    ("5", '0.0" km"', "5 km"),
    ("-12.5", '"AMT"\\ #,##0.00_);\\("AMT"\\ #,##0.00\\)', "-AMT 12.5"),
    ("3", '"Q"0', "Q3"),
    ("1500000", '0.0,,"M"', "1500000"),
    ("1234", "00000", "01234"),
    ("123456789", "000\\-00\\-0000", "123-45-6789"),
    ("5551234567", "[<=9999999]###\\-####;\\(###\\)\\ ###\\-####", "(555) 123-4567"),
    ("5551234", "[<=9999999]###\\-####;\\(###\\)\\ ###\\-####", "555-1234"),
    ("0.5", "# ?/?", "0.5"),
    ("198356388", "0.00E+00", "198356388"),
    ("7", "Standard", "7"),
    ("7", "General", "7"),
    ("0", "0;-0;;@", "0"),
    ("0", '_("$"* #,##0.00_);_("$"* \\(#,##0.00\\);_("$"* "-"??_);_(@_)', "$0"),
    ("0", '0.0%;-0.0%;"-"', "0 %"),
    ("-3", '0" up";0" down"', "-3 down"),
    ("#DIV/0!", "0%", "#DIV/0!"),
]


@pytest.mark.parametrize(("stored", "code", "shown"), FORMATS)
def test_number_formats(stored: str, code: str, shown: str) -> None:
    """Dates, times and percentages are as a person sees them; units stay, rounding and groups do not."""
    assert make_format(164, code, since_1904=False).show(stored) == shown


def test_formats_by_number() -> None:
    """Styles refer to formats of their own and to built-in ones, and the workbook says when dates begin."""
    styles = (
        f'<styleSheet xmlns="{CELLS}"><numFmts><numFmt numFmtId="164" formatCode="0.0%"/></numFmts>'
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="164"/><xf numFmtId="14"/><xf numFmtId="46"/></cellXfs></styleSheet>'
    )
    cells = '<c s="1"><v>0.475</v></c><c s="2"><v>43967</v></c><c s="3"><v>1.5</v></c><c s="99"><v>4</v></c>'
    sheet = make_sheet(f"<row>{cells}</row>")
    relations = [("y", "styles", "looks.xml")]
    since_1904 = read([sheet], {"xl/looks.xml": styles}, relations=relations, rest='<workbookPr date1904="1"/>')
    assert since_1904.text == "## S1\n\n47.5 % | 2024-05-17 | 36:00:00 | 4"
    damaged = read([sheet], {"xl/looks.xml": "<styleSheet"}, relations=relations)
    assert damaged.text == "## S1\n\n0.475 | 43967 | 1.5 | 4"
    assert [warning.code for warning in damaged.warnings] == ["part_unreadable"]


def test_numbers_by_default() -> None:
    """Fifteen digits, as Excel keeps; integers as they are stored."""
    shown = [show_general(stored) for stored in ("1.0", "-0.1", "1.1000000000000001", "-12", "x", "nan", "1e-12")]
    assert shown == ["1", "-0.1", "1.1", "-12", "x", "nan", "1E-12"]


def test_formulas_without_a_value() -> None:
    """They are text as they are written, also those that share one formula; a value that is empty text stays so."""
    rows = (
        '<row r="1"><c r="A1"><f>SUM(A2:A3)</f></c><c r="B1"><f>_xlfn.XLOOKUP(1,A:A,B:B)</f><v/></c>'
        '<c r="C1" t="str"><f>""</f><v></v></c><c r="D1"><f>1+1</f><v>2</v></c></row>'
        '<row r="2"><c r="A2"><f t="shared" ref="A2:A4" si="0">B2*$C$1+"B2"</f></c></row>'
        '<row r="3"><c r="A3"><f t="shared" si="0"/></c></row>'
        '<row r="4"><c r="A4"><f t="shared" si="0"/><v>5</v></c></row>'
    )
    lines = read([make_sheet(rows)]).text.splitlines()[2:]
    assert lines == ["=SUM(A2:A3) | =XLOOKUP(1,A:A,B:B) | 2", '=B2*$C$1+"B2"', '=B3*$C$1+"B2"', "5"]


@pytest.mark.parametrize(
    ("formula", "shifted"),
    [
        ("A1+$A1+A$1+$A$1", "C4+$A4+C$1+$A$1"),
        ("SUM(Sheet1!A1:B2)", "SUM(Sheet1!C4:D5)"),
        ("'A1 of B2'!C3", "'A1 of B2'!E6"),
        ('"A1"&A1', '"A1"&C4'),
        ("LOG10(A1)+Table1[A1]", "LOG10(C4)+Table1[A1]"),
        ("SUM(A:A)+SUM(1:1)+SUM($A:$A)", "SUM(C:C)+SUM(4:4)+SUM($A:$A)"),
        ("XFD1", "#REF!"),
        ("A_1+TAXES2024+TAX2024B", "A_1+TAXES2024+TAX2024B"),
    ],
)
def test_shared_formulas(formula: str, shifted: str) -> None:
    """References move with the cell; names, texts, functions and fixed references do not."""
    assert shift_formula(formula, rows=3, columns=2) == shifted


def test_cells_far_away() -> None:
    """The last cell of the last row costs no more than any other, in any number of rows."""
    rows = '<row r="1"><c r="A1"><v>1</v></c></row>' + "".join(
        f'<row r="{number}"><c r="XFD{number}"><v>{number}</v></c></row>' for number in range(1_045_577, 1_048_577)
    )
    text = read([make_sheet(rows, '<dimension ref="A1"/>'), make_sheet(make_row("other sheet"))]).text
    assert text.startswith("## S1\n\n1\n1045577\n")
    assert text.endswith("\n1048576\n\n## S2\n\nother sheet")


def test_cells_in_any_order() -> None:
    """Places decide the order, of cells in a row and of rows in a sheet; those without a place follow each other."""
    rows = (
        '<row r="3"><c r="B3"><v>4</v></c><c r="A3"><v>3</v></c></row><row r="2"><c r="A2"><v>2</v></c></row>'
        '<row r="1"><c><v>0</v></c><c><v>1</v></c></row>'
    )
    assert read([make_sheet(rows)]).text == "## S1\n\n0 | 1\n2\n3 | 4"
    no_numbers = '<row><c r="A1"><v>1</v></c></row><row><c r="A2"><v>2</v></c></row>'
    assert read([make_sheet(no_numbers)]).text == "## S1\n\n1\n2"


def test_names_of_columns_behind_a_title() -> None:
    """As in every table; a blank row may begin another one."""
    rows = (
        '<row r="1"><c t="inlineStr"><is><t>Sales</t></is></c></row>'
        '<row r="3"><c t="inlineStr"><is><t>Region</t></is></c><c><v>2019</v></c><c><v>2020</v></c></row>'
        '<row r="4"><c t="inlineStr"><is><t>North</t></is></c><c><v>1</v></c><c><v>2</v></c></row>'
    )
    assert read([make_sheet(rows)]).text == "## S1\n\nSales\nRegion: North; 2019: 1; 2020: 2"


def test_comments() -> None:
    """Old comments and threads are text once, although files repeat a thread as an old comment."""
    comments = (
        f'<comments xmlns="{CELLS}"><authors><author>Ada</author><author>tc={{1}}</author></authors><commentList>'
        '<comment ref="A1" authorId="0"><text><r><t>Ada:</t></r><r><t xml:space="preserve">\nold _x000D_words</t></r>'
        '</text></comment><comment ref="B2" authorId="1"><text><t>[Threaded comment] Your version</t></text></comment>'
        "</commentList></comments>"
    )
    threads = (
        f'<ThreadedComments xmlns="{THREADS}"><threadedComment ref="B2" personId="p1" id="1"><text>why?</text>'
        '</threadedComment><threadedComment ref="B2" personId="p2" parentId="1"><text>because</text></threadedComment>'
        "</ThreadedComments>"
    )
    people = f'<personList xmlns="{THREADS}"><person displayName="Bob" id="p1"/></personList>'
    links = [("c", "comments", "../c.xml"), ("t", "http://schemas.microsoft.com/x/threadedComment", "../t.xml")]
    parts = {
        "xl/leaves/_rels/leaf-1.xml.rels": build_relations(links),
        "xl/c.xml": comments, "xl/t.xml": threads, "xl/people.xml": people,
    }  # fmt: skip
    text = read([make_sheet(make_row("cell"))], parts, relations=[("p", "person", "people.xml")]).text
    assert (
        text
        == "## S1\n\ncell\n\nComment on A1 by Ada: old words\n\nComment on B2 by Bob: why?\n\nComment on B2: because"
    )


def make_drawing(content: str) -> str:
    return (
        f'<xdr:wsDr xmlns:xdr="{PLACES}" xmlns:a="{DRAWING}" xmlns:r="{RELATIONS}" xmlns:c="{CHART}" '
        'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"<xdr:twoCellAnchor>{content}</xdr:twoCellAnchor></xdr:wsDr>"
    )


def make_shape(*paragraphs: str) -> str:
    inside = "".join(f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>" for text in paragraphs)
    return f"<xdr:sp><xdr:txBody><a:bodyPr/>{inside}</xdr:txBody></xdr:sp>"


def test_drawings() -> None:
    """Text boxes in groups, one of several alternatives, descriptions of pictures, and a chart's own texts."""
    drawing = make_drawing(
        f"<xdr:grpSp>{make_shape('first box', 'second line')}{make_shape('second box')}</xdr:grpSp>"
        f"<mc:AlternateContent><mc:Choice>{make_shape('choice')}</mc:Choice>"
        f"<mc:Fallback>{make_shape('fallback')}</mc:Fallback></mc:AlternateContent>"
        '<xdr:pic><xdr:nvPicPr><xdr:cNvPr id="2" name="Picture 1" descr="A red bird"/></xdr:nvPicPr></xdr:pic>'
        '<xdr:graphicFrame><a:graphic><a:graphicData><c:chart r:id="g"/></a:graphicData></a:graphic></xdr:graphicFrame>'
    )
    chart = (
        f'<c:chartSpace xmlns:c="{CHART}" xmlns:a="{DRAWING}"><c:title><c:tx><c:rich><a:p><a:r><a:t>Sales </a:t></a:r>'
        "<a:r><a:t>chart</a:t></a:r></a:p></c:rich></c:tx></c:title><c:ser><c:tx><c:strRef><c:f>S1!A1</c:f><c:strCache>"
        "<c:pt><c:v>cell</c:v></c:pt></c:strCache></c:strRef></c:tx><c:cat><c:strRef><c:f>[1]Other!A1</c:f><c:strCache>"
        "<c:pt><c:v>elsewhere</c:v></c:pt></c:strCache></c:strRef></c:cat></c:ser></c:chartSpace>"
    )
    parts = {
        "xl/leaves/_rels/leaf-1.xml.rels": build_relations([("d", "drawing", "../d.xml")]),
        "xl/d.xml": drawing,
        "xl/_rels/d.xml.rels": build_relations([("g", "chart", "/xl/g.xml")]),
        "xl/g.xml": chart,
    }
    text = read([make_sheet(make_row("cell"))], parts).text
    assert text == (
        "## S1\n\ncell\n\nfirst box\nsecond line\n\nsecond box\n\nchoice\n\nA red bird\n\nSales chart\n\nelsewhere"
    )
    damaged = read([make_sheet(make_row("cell"))], parts | {"xl/g.xml": "<c:chartSpace"})
    assert damaged.text.endswith("A red bird")
    assert [warning.code for warning in damaged.warnings] == ["part_unreadable"]


def test_drawings_of_old_files() -> None:
    """Buttons and other controls have text, their line breaks are not closed, and comments are not repeated."""
    vml = (
        '<xml xmlns:v="urn:schemas-microsoft-com:vml" xmlns:x="urn:schemas-microsoft-com:office:excel"><v:shape>'
        '<v:textbox><div><font>Start<br>now</font></div></v:textbox><x:ClientData ObjectType="Button"/></v:shape>'
        '<v:shape><v:textbox><div>a comment</div></v:textbox><x:ClientData ObjectType="Note"/></v:shape></xml>'
    )
    parts = {
        "xl/leaves/_rels/leaf-1.xml.rels": build_relations([("v", "vmlDrawing", "../v.vml")]),
        "xl/v.vml": vml.replace("now", " now"),
    }
    assert read([make_sheet(make_row("cell"))], parts).text == "## S1\n\ncell\n\nStart now"


def test_sheets_that_are_charts_dialogs_and_macros() -> None:
    """Charts and dialogs have their texts; macro sheets are code, and a warning says so."""
    chart_sheet = f'<chartsheet xmlns="{CELLS}" xmlns:r="{RELATIONS}"><drawing r:id="d"/></chartsheet>'
    parts = {
        "xl/leaves/_rels/leaf-1.xml.rels": build_relations([("d", "drawing", "../d.xml")]),
        "xl/d.xml": make_drawing(make_shape("chart words")),
    }
    macro = make_sheet(make_row("=EXEC()"))
    dialog = f'<dialogsheet xmlns="{CELLS}"/>'
    kinds = ("chartsheet", "http://schemas.microsoft.com/office/2006/relationships/xlMacrosheet", "dialogsheet")
    parsed = read([chart_sheet, macro, dialog, make_sheet(make_row("cell"))], parts, kinds=kinds)
    assert parsed.text == "## S1\n\nchart words\n\n## S4\n\ncell"
    assert [(warning.code, "'S2'" in warning.detail) for warning in parsed.warnings] == [("part_unreadable", True)]


def test_headers_and_footers() -> None:
    """Their words are text once, without codes and page numbers."""
    notes = (
        '<headerFooter><oddHeader>&amp;L&amp;"Arial,Bold"&amp;12Secret &amp;&amp; new&amp;RMay</oddHeader>'
        "<oddFooter>&amp;CPage &amp;P of &amp;N</oddFooter><evenFooter>&amp;CPage &amp;P</evenFooter></headerFooter>"
    )
    assert read([make_sheet(make_row("cell"), notes)]).text == "## S1\n\ncell\n\nSecret & new | May"
    assert show_note("&C&D &T&A&F") == ""
    assert show_note("&CConfidential - Seite &P von &N") == "Confidential -"


def fail(body: bytes) -> ObjectError:
    with pytest.raises(ObjectError) as caught:
        read_xlsx(body, LIMIT)
    return caught.value


def test_a_sheet_that_cannot_be_read() -> None:
    """The object fails by the name of the sheet: missing, damaged, or with strings that do not exist."""
    good = make_sheet(make_row("words"))
    string = make_sheet('<row><c r="A1" t="s"><v>7</v></c></row>')
    book = make_book([good, good])
    for body in (
        make_book([good, good[:-30]]),
        make_book([good, string]),
        make_book([good, "<?xml version='1.0' encoding='x-none'?>" + good]),
        book.replace(b"leaves/leaf-2.xml", b"leaves/leaf-9.xml"),
    ):
        error = fail(body)
        assert error.code == "corrupt_document"
        assert "sheet 'S2'" in str(error)


def test_a_sheet_without_a_part() -> None:
    """Some writers list sheets that have no content; a warning names them."""
    sheets = '<sheets><sheet name="S1" r:id="s1"/><sheet name="Gone" r:id=""/></sheets>'
    parts = {
        "xl/_rels/workbook.xml.rels": build_relations([("s1", "worksheet", "s.xml")]),
        "xl/s.xml": make_sheet(make_row("words")),
    }
    body = build_package(
        "xl/workbook.xml", f'<workbook xmlns="{CELLS}" xmlns:r="{RELATIONS}">{sheets}</workbook>', parts
    )
    parsed = read_xlsx(body, LIMIT)
    assert parsed.text == "## S1\n\nwords"
    assert "'Gone'" in parsed.warnings[0].detail


def test_damaged_strings() -> None:
    """Without them no sheet is right."""
    parts = {"xl/strings.xml": f'<sst xmlns="{CELLS}"><si><t>words</t></si>'}
    error = fail(make_book([make_sheet("")], parts, relations=[("t", "sharedStrings", "strings.xml")]))
    assert error.code == "corrupt_document"
    assert "xl/strings.xml" in str(error)


def test_a_string_in_every_cell() -> None:
    """A small file cannot fill the memory by referring to one long string again and again."""
    strings = f'<sst xmlns="{CELLS}"><si><t>{"word " * 40_000}</t></si></sst>'
    sheet = make_sheet("<row>" + '<c t="s"><v>0</v></c>' * 2_000 + "</row>")
    parts = {"xl/strings.xml": strings}
    error = fail(make_book([sheet] * 3, parts, relations=[("t", "sharedStrings", "strings.xml")]))
    assert error.code == "decompressed_too_large"
