"""Presentations: all text of every slide is read, once, in the order of presentation."""

from __future__ import annotations

from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus import formats
from support.office import NAMESPACES, Parts, Relations, build_package, build_relations, damage


def read_file(body: bytes) -> Document:
    ref = ObjectRef("docs", "a.pptx", "etag", len(body), "2024-01-02T03:04:06Z")
    return parse_bytes(RawObject(ref, body, None, {}), FrozenLimits())


def build(slides: dict[str, str], parts: Parts | None = None, relations: Relations = ()) -> bytes:
    """A presentation of slides by the names of their parts, in order; the relations are those of the last one."""
    ids = "".join(f'<p:sldId id="{256 + n}" r:id="s{n}"/>' for n in range(len(slides)))
    main = f"<p:presentation {NAMESPACES}><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"
    links = [(f"s{n}", "slide", f"slides/{name}") for n, name in enumerate(slides)]
    members: dict[str, str | bytes] = {"ppt/_rels/presentation.xml.rels": build_relations(links)}
    for name, shapes in slides.items():
        members[f"ppt/slides/{name}"] = (
            f"<p:sld {NAMESPACES} show='0'><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>"
        )
    members[f"ppt/slides/_rels/{list(slides)[-1]}.rels"] = build_relations(relations)
    return build_package("ppt/presentation.xml", main, {**members, **(parts or {})})


def read(shapes: str, parts: Parts | None = None, relations: Relations = ()) -> str:
    return read_file(build({"slide1.xml": shapes}, parts, relations)).text


def body(*texts: str) -> str:
    paragraphs = "".join(f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>" for text in texts)
    return f"<p:txBody><a:bodyPr/>{paragraphs}</p:txBody>"


def shape(*texts: str, placeholder: str = "") -> str:
    kind = f'<p:ph type="{placeholder}"/>' if placeholder else ""
    return f"<p:sp><p:nvSpPr><p:cNvPr id='2' name='x'/><p:nvPr>{kind}</p:nvPr></p:nvSpPr>{body(*texts)}</p:sp>"


def frame(content: str) -> str:
    return f"<p:graphicFrame><a:graphic><a:graphicData>{content}</a:graphicData></a:graphic></p:graphicFrame>"


def test_slides_follow_the_order_of_presentation() -> None:
    document = read_file(build({"slide9.xml": shape("first"), "slide2.xml": shape("second"), "x.xml": shape("third")}))
    assert document.text == "first\n\nsecond\n\nthird"
    assert [page.page for page in document.pages] == [1, 2, 3]


def test_the_title_is_first_and_numbers_of_slides_are_left_out() -> None:
    field = "<a:fld type='slidenum'><a:t>7</a:t></a:fld>"
    number = f"<p:sp><p:txBody><a:p><a:r><a:t>Page </a:t></a:r>{field}</a:p></p:txBody></p:sp>"
    text = read(shape("below") + shape("Top", placeholder="title") + shape("7", placeholder="sldNum") + number)
    assert text == "## Top\n\nbelow\n\nPage"


def test_shapes_in_groups_are_read_at_any_depth() -> None:
    assert (
        read("<p:grpSp>" * 20_000 + shape("deep", "twice") + "</p:grpSp>" * 20_000 + shape("after"))
        == "deep\ntwice\n\nafter"
    )


def test_tables_have_their_header() -> None:
    def row(*cells: str) -> str:
        return f"<a:tr>{''.join(f'<a:tc>{body(*cell.split())}</a:tc>' for cell in cells)}</a:tr>"

    rows = row("name", "city") + row("Ada Lovelace", "") + row("Alan", "London")
    table = frame(f"<a:tbl><a:tblPr firstRow='1'/>{rows}</a:tbl>")
    expected = "| name | city |\n| --- | --- |\n| Ada Lovelace |  |\n| Alan | London |"
    assert read(table) == expected
    assert read("<p:grpSp>" + table + "</p:grpSp>") == expected


def test_the_first_form_of_a_drawing_with_text_counts() -> None:
    forms = "<mc:AlternateContent><mc:Choice>{}</mc:Choice><mc:Fallback>{}</mc:Fallback></mc:AlternateContent>"
    assert read(forms.format(shape("new"), shape("old"))) == "new"
    assert read(forms.format("<p:pic/>", shape("old"))) == "old"


def test_pictures_have_their_description() -> None:
    assert (
        read("<p:pic><p:nvPicPr><p:cNvPr id='1' name='x' descr='A map of Peru'/></p:nvPicPr></p:pic>")
        == "A map of Peru"
    )


def test_equations_keep_their_signs() -> None:
    power = "<m:sSup><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup>"
    assert read(f"<p:sp><p:txBody><a:p><m:oMath>{power}</m:oMath></a:p></p:txBody></p:sp>") == "x^2"


CHART = (
    f"<c:chartSpace {NAMESPACES}><c:ser><c:tx><c:v>Peru</c:v></c:tx><c:cat><c:pt idx='0'><c:v>May</c:v></c:pt></c:cat>"
    "<c:val><c:pt idx='0'><c:v>5</c:v></c:pt></c:val></c:ser></c:chartSpace>"
)


def test_charts_diagrams_notes_and_comments_are_text_once() -> None:
    point = "<dgm:pt modelId='1'><dgm:t><a:p><a:r><a:t>step</a:t></a:r></a:p></dgm:t></dgm:pt>"
    diagram = f"<dgm:dataModel {NAMESPACES}><dgm:ptLst>{point}</dgm:ptLst></dgm:dataModel>"
    thread = f"<x:cm><x:replyLst><x:reply>{body('because')}</x:reply></x:replyLst>{body('really?')}</x:cm>"
    parts = {
        "ppt/charts/c.xml": CHART,
        "ppt/diagrams/d.xml": diagram,
        "ppt/notes/n.xml": f"<p:notes {NAMESPACES}>{shape('3', placeholder='sldNum')}{shape('say this')}</p:notes>",
        "ppt/comments/old.xml": f"<p:cmLst {NAMESPACES}><p:cm><p:pos/><p:text>why?</p:text></p:cm></p:cmLst>",
        "ppt/comments/new.xml": f"<x:cmLst xmlns:x='new' {NAMESPACES}>{thread}</x:cmLst>",
    }
    links = [
        ("c", "chart", "../charts/c.xml"),
        ("d", "diagramData", "../diagrams/d.xml"),
        ("n", "notesSlide", "../notes/n.xml"),
        ("o", "comments", "../comments/old.xml"),
        ("m", "http://schemas.microsoft.com/office/2018/10/relationships/comments", "../comments/new.xml"),
    ]
    shapes = frame('<c:chart r:id="c"/>') + frame('<dgm:relIds r:dm="d"/>') + shape("last")
    assert read(shapes, parts, links).split("\n\n") == [
        "|  | Peru |\n| --- | --- |\n| May | 5 |", "- step", "last", "say this", "why?", "really?", "because",
    ]  # fmt: skip


def test_embedded_files_are_text_or_a_warning() -> None:
    workbook = formats.build_xlsx("Budget", [("Sheet", [["name", "city"], ["Ada", "London"]])])
    shapes = shape("words") + frame('<p:oleObj r:id="x" progId="Excel.Sheet.12"><p:embed/></p:oleObj>')
    links = [("x", "package", "../embeddings/b.xlsx")]
    assert "London" in read(shapes, {"ppt/embeddings/b.xlsx": workbook}, links)
    document = read_file(
        build({"slide1.xml": shapes}, {"ppt/embeddings/b.xlsx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"}, links)
    )
    assert document.text == "words"
    assert [warning.code for warning in document.warnings] == ["part_unreadable"]


def test_damaged_notes_and_charts_cost_a_warning() -> None:
    parts = {"ppt/notes/n.xml": f"<p:notes {NAMESPACES}>{shape('say this')}</p:notes>", "ppt/charts/c.xml": CHART}
    links = [("n", "notesSlide", "../notes/n.xml"), ("c", "chart", "../charts/c.xml")]
    whole = build({"slide1.xml": shape("words") + frame('<c:chart r:id="c"/>')}, parts, links)
    document = read_file(damage(damage(whole, "ppt/notes/n.xml"), "ppt/charts/c.xml"))
    assert document.text == "words"
    assert [(warning.code, warning.count) for warning in document.warnings] == [("part_unreadable", 2)]
