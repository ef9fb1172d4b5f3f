"""EPUB books as reading systems accept them: what is wrong with one file does not lose the others."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.pipeline.parsing.formats.epub import read_epub
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from support.corpus.formats import build_zip

LIMIT = 1 << 24
PAGE = "application/xhtml+xml"
FONTS = "http://www.idpf.org/2008/embedding"
AES = "http://www.w3.org/2001/04/xmlenc#aes256-cbc"


def make_page(text: str, head: str = "") -> str:
    return f'{head}<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body><p>{text}</p></body></html>'


def make_book(
    items: str,
    spine: str,
    files: Mapping[str, str | bytes],
    *,
    rootfiles: tuple[str, ...] = ("O/b.opf",),
    meta: Mapping[str, str | bytes] | None = None,
) -> bytes:
    """A book whose package is in the folder "O", as are the files."""
    roots = "".join(f'<rootfile full-path="{path}" media-type="application/oebps-package+xml"/>' for path in rootfiles)
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        f"<dc:title>A book</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    members: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": f'<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        f"<rootfiles>{roots}</rootfiles></container>",
        "O/b.opf": package,
        **{f"O/{name}": data for name, data in files.items()},
        **(meta or {}),
    }
    return build_zip([(name, data.encode() if isinstance(data, str) else data) for name, data in members.items()])


def item(name: str, href: str, media_type: str = PAGE, more: str = "") -> str:
    return f'<item id="{name}" href="{href}" media-type="{media_type}" {more}/>'


def refer(*names: str) -> str:
    return "".join(f'<itemref idref="{name}"/>' for name in names)


def read(items: str, spine: str, files: Mapping[str, str | bytes], **more: Mapping[str, str | bytes]) -> ParsedText:
    return read_epub(make_book(items, spine, files, **more), LIMIT)  # type: ignore[arg-type]  # one kind of option


def fail(body: bytes) -> ObjectError:
    with pytest.raises(ObjectError) as caught:
        read_epub(body, LIMIT)
    return caught.value


ONE = {"a.xhtml": make_page("Chapter one")}
GOOD = item("a", "a.xhtml")
BAD = [
    (item("b", "b.xhtml"), {}, "O/b.xhtml"),  # missing
    ("", {}, "'b'"),  # unknown
    (item("b", "b.xhtml"), {"b.xhtml": bytes(range(256)) * 8}, "O/b.xhtml"),  # not text
    (item("b", "b.svg", "image/svg+xml"), {"b.svg": "<svg><text>x"}, "drawing"),
]


@pytest.mark.parametrize(("listed", "files", "named"), BAD)
def test_one_bad_chapter(listed: str, files: Mapping[str, str | bytes], named: str) -> None:
    """The others are read, and a warning names it."""
    parsed = read(listed + GOOD, refer("b", "a"), {**ONE, **files})
    assert parsed.text == "Chapter one"
    assert parsed.title == "A book"
    assert [(warning.code, named in warning.detail) for warning in parsed.warnings] == [("part_unreadable", True)]


def test_a_damaged_chapter() -> None:
    """Its checksum is wrong."""
    body = make_book(GOOD + item("b", "b.xhtml"), refer("a", "b"), {**ONE, "b.xhtml": make_page("Second words")})
    at = body.index(b"b.xhtml", body.index(b"O/b.xhtml")) + len("b.xhtml")
    parsed = read_epub(body[:at] + b"\xff" + body[at + 1 :], LIMIT)
    assert parsed.text == "Chapter one"
    assert "O/b.xhtml" in parsed.warnings[0].detail


def test_no_good_chapter() -> None:
    """A book of which nothing can be read fails by the first chapter."""
    error = fail(make_book(item("b", "b.xhtml"), refer("b"), {}))
    assert error.code == "corrupt_document"
    assert "O/b.xhtml" in str(error)


def test_pictures_are_no_chapters() -> None:
    """A picture in the reading order, whole or damaged, has no text; its replacement has."""
    picture = item("i", "c.jpg", "image/jpeg")
    parsed = read(picture + GOOD, refer("i", "a"), {**ONE, "c.jpg": b"\xff\xd8\xff\xe0" * 99})
    assert (parsed.text, parsed.warnings) == ("Chapter one", ())
    replaced = item("i", "c.jpg", "image/jpeg", 'fallback="f"') + item("f", "f.xhtml")
    files = {**ONE, "c.jpg": b"\xff\xd8", "f.xhtml": make_page("In words")}
    assert read(GOOD + replaced, refer("i", "a"), files).text == "In words\n\nChapter one"


def test_addresses() -> None:
    """Fragments, escapes, folders above and another case of letters; a page that is referred to twice is read once."""
    items = (
        item("a", "a.xhtml#start")
        + item("b", "../text/chapter%20two.xhtml")
        + item("c", "C.XHTML#y")
        + item("d", "a.xhtml#end")
    )
    files = {**ONE, "c.xhtml": make_page("three")}
    meta = {"text/chapter two.xhtml": make_page("two")}
    parsed = read(items, refer("a", "b", "c", "d"), files, meta=meta)
    assert parsed.text == "Chapter one\n\ntwo\n\nthree"
    assert parsed.warnings == ()


def test_pages_outside_of_the_reading_order() -> None:
    """They follow, but not the table of contents, which repeats the headings; parts that are not linear are read."""
    items = GOOD + item("n", "nav.xhtml", more='properties="nav"') + item("x", "x.xhtml") + item("l", "l.xhtml")
    files = {**ONE, "nav.xhtml": make_page("Contents"), "x.xhtml": make_page("Notes"), "l.xhtml": make_page("Answers")}
    parsed = read(items, '<itemref idref="l" linear="no"/>' + refer("a"), files)
    assert parsed.text == "Answers\n\nChapter one\n\nNotes"
    assert read(items, refer("n", "a"), files).text.startswith("Contents\n\nChapter one")


def test_the_first_package_that_exists() -> None:
    """A container may name several renditions of a book."""
    body = make_book(GOOD, refer("a"), ONE, rootfiles=("gone/x.opf", "O/b.opf"))
    assert read_epub(body, LIMIT).text == "Chapter one"
    assert fail(make_book(GOOD, refer("a"), ONE, rootfiles=())).code == "corrupt_document"


def test_encodings_and_entities() -> None:
    """Chapters declare both; a document type is no text."""
    latin = make_page("na\xefve", '<?xml version="1.0" encoding="iso-8859-1"?>').encode("latin-1")
    wide = make_page("wide", '<?xml version="1.0" encoding="utf-16"?>').encode("utf-16")
    doctype = '<!DOCTYPE html PUBLIC "-//W3C//DTD" "x.dtd" [\n<!ENTITY pub "The > Press">\n<!ENTITY nbsp "&#160;">]>'
    named = make_page("&pub; caf&eacute; &amp;&unknown;", doctype)
    files = {"a.xhtml": latin, "b.xhtml": wide, "c.xhtml": named}
    parsed = read(GOOD + item("b", "b.xhtml") + item("c", "c.xhtml"), refer("a", "b", "c"), files)
    assert parsed.text == "na\xefve\n\nwide\n\nThe > Press caf\xe9 &&unknown;"


def test_drawings_as_chapters() -> None:
    """Their texts are one per line."""
    drawing = (
        '<?xml version="1.0" encoding="utf-16"?><svg xmlns="http://www.w3.org/2000/svg"><title>Map</title><g>'
        "<text><tspan>To</tspan> the sea</text><path d='M0'/><text>North</text></g></svg>"
    )
    files = {**ONE, "m.svg": drawing.encode("utf-16")}
    assert read(item("m", "m.svg", "image/svg+xml"), refer("m"), files).text == "Map\n\nTo the sea\n\nNorth"


def make_encryption(name: str, method: str) -> dict[str, str | bytes]:
    return {
        "META-INF/encryption.xml": '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" '
        'xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData>'
        f'<enc:EncryptionMethod Algorithm="{method}"/><enc:CipherData><enc:CipherReference URI="{name}"/>'
        "</enc:CipherData></enc:EncryptedData></encryption>"
    }


def test_encrypted_books() -> None:
    """Disguised fonts and encrypted pictures are no obstacle; encrypted chapters fail the book."""
    assert read(GOOD, refer("a"), ONE, meta=make_encryption("O/a.xhtml", FONTS)).text == "Chapter one"
    assert read(GOOD, refer("a"), ONE, meta=make_encryption("O/picture.jpg", AES)).text == "Chapter one"
    assert fail(make_book(GOOD, refer("a"), ONE, meta=make_encryption("O/a.xhtml", AES))).code == "encrypted_document"
    damaged = read(GOOD, refer("a"), ONE, meta={"META-INF/encryption.xml": "<encryption"})
    assert (damaged.text, damaged.warnings[0].code) == ("Chapter one", "part_unreadable")


def test_a_chapter_that_many_places_refer_to() -> None:
    """A small book cannot make a long text of one chapter."""
    items = "".join(item(f"c{i}", "a.xhtml", more=f'fallback="{i}"') for i in range(2_000))
    spine = refer(*(f"c{i}" for i in range(2_000)))
    assert read(items, spine, ONE).text == "Chapter one"
