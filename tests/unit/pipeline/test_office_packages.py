"""Office files and archives: how their type is detected, how their parts are found, and what damage costs."""

from __future__ import annotations

import io
import random
import zipfile

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.detect import detect_marked
from ingestion_engine.pipeline.parsing.kinds import Kind
from ingestion_engine.pipeline.parsing.large import MARK_BYTES
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus import formats
from support.corpus.broken import build_compound, build_encrypted_ooxml, build_noise, build_zip_bomb
from support.office import (
    DRAWING,
    NAMESPACES,
    STRICT_RELATIONS,
    STRICT_WORD,
    build_package,
    build_relations,
    build_word,
    damage,
    paragraph,
)

LIMITS = FrozenLimits(decompressed_max_bytes=1024 * 1024)
XLSB = "application/vnd.ms-excel.sheet.binary.macroenabled.12"
CONTAINER = '<container><rootfiles><rootfile full-path="p.opf"/></rootfiles></container>'


def read(key: str, body: bytes) -> Document:
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    return parse_bytes(RawObject(ref, body, None, {}), LIMITS)


def fail(key: str, body: bytes) -> ObjectError:
    with pytest.raises(ObjectError) as caught:
        read(key, body)
    return caught.value


def pack(*members: tuple[str, str | bytes], stored: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def repack(body: bytes, rename: dict[str, str], *, last: bytes = b"") -> bytes:
    """The same archive with some members renamed, and one more at the end."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        members = [(rename.get(name, name), archive.read(name)) for name in archive.namelist()]
    return pack(*members, *([("more/inside.docx", last)] if last else []), stored=bool(last))


def test_parts_are_found_by_relation() -> None:
    assert read("a.docx", build_word(paragraph("from Office 365"), main="word/document2.xml")).text == "from Office 365"
    assert read("a.docx", build_word(paragraph("elsewhere"), main="content/text.xml")).text == "elsewhere"


@pytest.mark.parametrize(
    "target", ["/word/document.xml", "./word/document.xml", "WORD/Document.xml", "word\\document.xml"]
)
def test_targets_of_relations_may_be_written_in_several_ways(target: str) -> None:
    body = build_package(
        "word/document.xml", f"<w:document {NAMESPACES}><w:body>{paragraph('words')}</w:body></w:document>"
    )
    links = build_relations([("r1", "officeDocument", target)])
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | {"_rels/.rels": links.encode()}
    assert read("a.docx", pack(*members.items())).text == "words"


def test_encoded_names_of_parts_are_decoded() -> None:
    parts = {
        "word/my notes.xml": f"<w:footnotes {NAMESPACES}><w:footnote>{paragraph('a note')}</w:footnote></w:footnotes>"
    }
    document = read("a.docx", build_word(paragraph("words"), parts, [("n", "footnotes", "my%20notes.xml")]))
    assert document.text == "words\n\na note"


def test_strict_files_are_read() -> None:
    content = (
        f'<w:document xmlns:w="{STRICT_WORD}" xmlns:r="{STRICT_RELATIONS}"><w:body>{paragraph("strict words")}</w:body>'
        "</w:document>"
    )
    assert read("a.docx", build_package("word/document.xml", content, base=STRICT_RELATIONS)).text == "strict words"
    slides = "http://purl.oclc.org/ooxml/presentationml/main"
    main = (
        f'<p:presentation xmlns:p="{slides}" xmlns:r="{STRICT_RELATIONS}"><p:sldIdLst><p:sldId id="256" r:id="s1"/>'
        "</p:sldIdLst></p:presentation>"
    )
    text = f'<a:p xmlns:a="{DRAWING}"><a:r><a:t>strict slide</a:t></a:r></a:p>'
    shapes = f"<p:cSld><p:spTree><p:sp><p:txBody>{text}</p:txBody></p:sp></p:spTree></p:cSld>"
    slide = f'<p:sld xmlns:p="{slides}">{shapes}</p:sld>'
    parts = {
        "ppt/_rels/presentation.xml.rels": build_relations([("s1", "slide", "slides/first.xml")], STRICT_RELATIONS),
        "ppt/slides/first.xml": slide,
    }
    assert (
        read("a.pptx", build_package("ppt/presentation.xml", main, parts, base=STRICT_RELATIONS)).text == "strict slide"
    )


def test_a_slide_without_a_part_fails_the_presentation_by_name() -> None:
    main = f'<p:presentation {NAMESPACES}><p:sldIdLst><p:sldId id="256" r:id="s1"/></p:sldIdLst></p:presentation>'
    without = fail("a.pptx", build_package("ppt/presentation.xml", main))
    assert (without.code, "slide 1" in str(without)) == ("corrupt_document", True)
    links = {"ppt/_rels/presentation.xml.rels": build_relations([("s1", "slide", "slides/slide7.xml")])}
    missing = fail("a.pptx", build_package("ppt/presentation.xml", main, links))
    assert (missing.code, "ppt/slides/slide7.xml is missing" in str(missing)) == ("corrupt_document", True)


def test_members_with_backslashes_are_found() -> None:
    body = build_word(paragraph("packed on Windows"))
    renamed = repack(body, {"_rels/.rels": "_rels\\.rels", "word/document.xml": "word\\document.xml"})
    assert read("a.docx", renamed).text == "packed on Windows"


def test_the_last_of_several_members_of_one_name_counts() -> None:
    body = build_word(paragraph("first"))
    buffer = io.BytesIO(body)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(
            "word/document.xml", f"<w:document {NAMESPACES}><w:body>{paragraph('second')}</w:body></w:document>"
        )
    assert read("a.docx", buffer.getvalue()).text == "second"


def test_a_damaged_picture_costs_a_warning() -> None:
    picture = build_noise(3000, 7)
    body = damage(build_word(paragraph("words"), {"word/media/image1.png": picture}), "word/media/image1.png")
    document = read("a.docx", body)
    assert document.text == "words"
    assert [(w.code, w.count, w.detail) for w in document.warnings] == [
        ("picture_unreadable", 1, "word/media/image1.png is damaged.")
    ]


def test_damaged_text_beside_the_main_text_costs_a_warning() -> None:
    parts = {"word/footnotes.xml": f"<w:footnotes {NAMESPACES}>{paragraph('a note')}</w:footnotes>"}
    body = build_word(paragraph("words"), parts, [("n", "footnotes", "footnotes.xml"), ("c", "comments", "gone.xml")])
    document = read("a.docx", damage(body, "word/footnotes.xml"))
    assert document.text == "words"
    assert [(w.code, w.count) for w in document.warnings] == [("part_unreadable", 2)]


def test_damage_in_the_main_text_fails_the_document_by_name() -> None:
    error = fail("a.docx", damage(build_word(paragraph("words")), "word/document.xml"))
    assert (error.code, "word/document.xml" in str(error)) == ("corrupt_document", True)


def test_a_member_that_is_no_text_still_counts_towards_the_limit() -> None:
    body = build_word(paragraph("words"), {"word/media/image1.bmp": bytes(2 << 20)})
    assert fail("a.docx", body).code == "decompressed_too_large"
    assert fail("a.docx", build_zip_bomb(3 << 20)).code == "decompressed_too_large"


def test_an_office_file_inside_another_one_does_not_decide_its_type() -> None:
    workbook = formats.build_xlsx("Budget", [("Sheet", [["a", "b"]])])
    deck = formats.build_pptx("Deck", [("One", ("text",))])
    assert detect_marked(repack(build_word(paragraph("x")), {}, last=workbook)) == detect_marked(
        build_word(paragraph("x"))
    )
    assert detect_marked(repack(workbook, {}, last=deck)).kind is Kind.XLSX
    assert detect_marked(repack(deck, {}, last=build_word(paragraph("x")))).kind is Kind.PPTX
    assert (
        detect_marked(pack(("files/inside.docx", build_word(paragraph("x"))), stored=True)).unsupported
        == "application/zip"
    )


@pytest.mark.parametrize(
    ("media_type", "main", "kind"),
    [
        ("application/vnd.ms-word.document.macroEnabled.main+xml", "word/document.xml", Kind.DOCX),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.template.main+xml", "d.xml", Kind.DOCX),
        ("application/vnd.ms-powerpoint.slideshow.macroEnabled.main+xml", "p.xml", Kind.PPTX),
        ("application/vnd.openxmlformats-officedocument.presentationml.slideshow.main+xml", "p.xml", Kind.PPTX),
        ("application/vnd.ms-excel.sheet.macroEnabled.main+xml", "w.xml", Kind.XLSX),
        ("application/vnd.openxmlformats-officedocument.spreadsheetml.template.main+xml", "w.xml", Kind.XLSX),
    ],
)
def test_the_content_type_of_the_main_part_decides(media_type: str, main: str, kind: Kind) -> None:
    assert detect_marked(build_package(main, "<x/>", media_type=media_type)).kind is kind


def test_the_root_of_the_main_part_decides_where_its_content_type_is_wrong() -> None:
    content = f"<w:document {NAMESPACES}><w:body>{paragraph('words')}</w:body></w:document>"
    assert read("a.docx", build_package("main.xml", content.encode("utf-16"), media_type="text/xml")).text == "words"


XPS = "http://schemas.microsoft.com/xps/2005/06/fixedrepresentation"
VISIO = "http://schemas.microsoft.com/visio/2010/relationships/document"


@pytest.mark.parametrize(
    ("members", "media_type"),
    [
        (
            [("mimetype", "application/vnd.oasis.opendocument.text"), ("content.xml", "<x/>")],
            "application/vnd.oasis.opendocument.text",
        ),
        (
            [("content.xml", "<x/>"), ("mimetype", "application/vnd.oasis.opendocument.spreadsheet\n")],
            "application/vnd.oasis.opendocument.spreadsheet",
        ),
        (
            [("_rels/.rels", build_relations([("a", XPS, "F.fdseq")])), ("F.fdseq", "<x/>")],
            "application/vnd.ms-xpsdocument",
        ),
        ([("_rels/.rels", build_relations([("a", VISIO, "visio/document.xml")]))], "application/vnd.ms-visio.drawing"),
        ([("META-INF/MANIFEST.MF", "Manifest-Version: 1.0"), ("A.class", b"\xca\xfe")], "application/java-archive"),
        (
            [("META-INF/MANIFEST.MF", "x"), ("AndroidManifest.xml", b"\3\0"), ("classes.dex", "x")],
            "application/vnd.android.package-archive",
        ),
        ([("doc.kml", "<kml/>")], "application/vnd.google-earth.kmz"),
        ([("Index/Document.iwa", "x"), ("Index/Slide-12.iwa", "x")], "application/vnd.apple.keynote"),
        ([("Index/Document.iwa", "x"), ("Index/Metadata.iwa", "x")], "application/vnd.apple.iwork"),
        ([("report.txt", "words")], "application/zip"),
        ([], "application/zip"),
    ],
)
def test_archives_without_a_reader_have_a_type_of_their_own(
    members: list[tuple[str, str | bytes]], media_type: str
) -> None:
    error = fail("a.bin", pack(*members))
    assert (error.code, error.context["content_type"]) == ("unsupported_type", media_type)


def test_a_binary_workbook_has_a_type_of_its_own() -> None:
    links = build_relations([("r1", "officeDocument", "xl/workbook.bin")])
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Override PartName="/xl/workbook.bin" ContentType="application/vnd.ms-excel.sheet.binary.macroEnabled.main"/>'
        "</Types>"
    )
    for members in (
        [("[Content_Types].xml", types), ("_rels/.rels", links), ("xl/workbook.bin", b"\x83\1")],
        [("_rels/.rels", ""), ("xl/workbook.bin", b"\x83\1"), ("xl/theme/theme1.xml", "<x/>")],
    ):
        assert fail("a.xlsb", pack(*members)).context["content_type"] == XLSB
        assert fail("a.xlsx", pack(*members)).code == "type_mismatch"


@pytest.mark.parametrize(
    "members",
    [
        [("META-INF/container.xml", CONTAINER), ("mimetype", "application/epub+zip")],
        [("mimetype", "application/epub+zip\r\n"), ("META-INF/container.xml", CONTAINER)],
        [("META-INF/container.xml", CONTAINER), ("p.opf", "<package/>")],
        [("OEBPS/content.opf", "<package/>")],
    ],
)
def test_books_are_found_by_their_container(members: list[tuple[str, str]]) -> None:
    assert detect_marked(pack(*members)).kind is Kind.EPUB


class _Pipe(io.RawIOBase):
    """A stream that cannot go back, so that sizes follow the members."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.parts.append(bytes(data))  # type: ignore[call-overload]  # any buffer
        return len(self.parts[-1])


def _stream(body: bytes) -> bytes:
    pipe = _Pipe()
    with zipfile.ZipFile(io.BytesIO(body)) as source, zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    return b"".join(pipe.parts)


def test_streamed_archives_and_those_behind_other_bytes_are_read() -> None:
    streamed = _stream(build_word(paragraph("streamed")))
    assert read("a.docx", streamed).text == "streamed"
    assert read("a.docx", b"PK00" + streamed).text == "streamed"
    assert (
        detect_marked(b"MZ\x90\0" + bytes(60) + streamed).unsupported == "application/vnd.microsoft.portable-executable"
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cut_office_file_is_damaged_whatever_its_name(streamed: bool) -> None:
    rng = random.Random(3)
    body = build_word(paragraph("words"), {"word/media/image1.png": rng.randbytes(3000)})
    body = _stream(body) if streamed else body
    assert fail("a.docx", body[:-1000]).code == "corrupt_document"
    assert fail("unnamed", body[:-1000]).code == "corrupt_document"


@pytest.mark.parametrize("streamed", [False, True])
def test_the_beginning_of_an_archive_shows_that_it_is_one(streamed: bool) -> None:
    rng = random.Random(4)
    for body in (build_word(paragraph(rng.randbytes(9000).hex())), pack(("x", rng.randbytes(9000)))):
        whole = _stream(body) if streamed else body
        found = detect_marked(whole[:MARK_BYTES], len(whole))
        assert found.kind or found.unsupported


@pytest.mark.parametrize(
    ("streams", "code", "media_type"),
    [
        (["WordDocument", "1Table"], "unsupported_type", "application/msword"),
        (["Workbook"], "unsupported_type", "application/vnd.ms-excel"),
        (["BOOK"], "unsupported_type", "application/vnd.ms-excel"),
        (["__properties_version1.0"], "unsupported_type", "application/vnd.ms-outlook"),
        (["Contents"], "unsupported_type", "application/x-ole-storage"),
    ],
)
def test_the_root_of_a_compound_file_decides_its_type(streams: list[str], code: str, media_type: str) -> None:
    """Names inside its streams do not count: a message may hold an encrypted document."""
    inside = build_encrypted_ooxml(1)
    error = fail("a.bin", build_compound(dict.fromkeys(streams, inside)))
    assert (error.code, error.context["content_type"]) == (code, media_type)
    assert fail("a.docx", build_compound({"ENCRYPTIONINFO": b"", "ENCRYPTEDPACKAGE": b""})).code == "encrypted_document"


def test_types_that_another_program_can_save_have_a_hint() -> None:
    assert fail("a.doc", build_compound({"WordDocument": b""})).hint == "Save the document as .docx."
    assert fail("a.docx", build_compound({"WordDocument": b""})).hint == "Save the document as .docx."
    assert fail("a.key", pack(("Index/Slide.iwa", "x"))).hint == "Export the presentation as .pptx."


def test_damaged_compound_files_are_recognised_by_the_names_in_them() -> None:
    whole = build_compound({"WordDocument": b"x"})
    assert detect_marked(whole[:1024], len(whole)).unsupported == "application/x-ole-storage"
    assert detect_marked(whole[:4096], len(whole)).unsupported == "application/msword"
    endless = bytearray(whole)
    endless[512 + 4 : 512 + 8] = b"\1\0\0\0"  # the directory continues with itself
    assert detect_marked(bytes(endless)).unsupported == "application/msword"
