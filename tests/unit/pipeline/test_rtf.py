"""Rich Text: every letter of the document, in its order, and nothing that is not text of it."""

# ruff: noqa: RUF001 - the tests contain texts in many scripts

from __future__ import annotations

import struct

import pytest
from striprtf.striprtf import rtf_to_text

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.formats.rtf import read_rtf
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.line_steps import count_lines

FONTS = (
    rb"{\fonttbl{\f0\fcharset0 A;}{\f1\fcharset204 B;}{\f2\fcharset128 C;}{\f3\fcharset2 Symbol;}"
    rb"{\f4\fcharset2 Wingdings;}{\f5\cpg1253 G;}{\f6\fcharset1 D;}{\f7\fcharset99 X;}{\f8\fcharset134 S;}}"
)


def text_of(body: bytes, head: bytes = rb"\ansi\ansicpg1252") -> str:
    return read_rtf(rb"{\rtf1" + head + FONTS + body + b"}").text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (rb"\f1 \'cf{\f0 \'e9}\'f0 \f0 \'e9", "Пéр é"),
        (rb"\f1\'cf\plain\'e9", "Пé"),
        (rb"\f5\'e1\f6\'e9\f7\'e9", "αéé"),
        (rb"\f2 \'83e\'83X \'96\{\'83\\\'83\}a", "テス 本ソマa"),
        (b"\\f2 \x83e\x83X\\'83e", "テステ"),
        (rb"\f8\'c4\'e3\'ba\'c3\f0\'e9", "你好é"),
        (rb"\uc2\f2\u12486\'83e\u12473\'83X.", "テス."),
        (rb"\f3 abg\'b7\u-3913?\f4\'fc\u-4089? \f0 abg", "αβγ••✓\x07 abg"),
        (rb"\u-10179\u-8704?\u55357?\u56832? \u65?b\u8212\emdash c", "😀😀 Ab—c"),
        (rb"\u8364\'80\u160\~x\u8364\b yes", "€\u00a0x€yes"),
        (rb"a\'00b\zwj c\zwnj d", "a\0b\u200dc\u200cd"),
        (rb"a\bin3 }}}b", "ab"),
    ],
)  # fmt: skip
def test_letters(body: bytes, text: str) -> None:
    r"""Bytes are in the code page of the font, which ends with its group; the substitute behind ``\u`` is skipped."""
    assert text_of(body) == text


@pytest.mark.parametrize(
    ("head", "text"),
    [(rb"\pc", "é"), (rb"\pca", "é"), (rb"\mac", "Ç"), (rb"\ansi\ansicpg1251", "‚"), (rb"\ansi\ansicpg10000", "Ç"),
     (rb"\ansi\ansicpg99999", "‚")],
)  # fmt: skip
def test_code_page_of_the_document(head: bytes, text: str) -> None:
    """It holds for fonts without one; an unknown one is ignored."""
    assert read_rtf(rb"{\rtf1" + head + rb" \'82}").text == text


def test_fonts_that_all_claim_to_be_western() -> None:
    """Where no font has the document's character set, Western fonts are in it; where one has, they are Western."""
    fonts = rb"{\fonttbl{\f0\fcharset0 A;}%b}"
    body = rb"{\rtf1\ansi\ansicpg1251" + fonts + rb"\f0\'cf}"
    assert read_rtf(body % b"").text == "П"
    assert read_rtf(body % rb"{\f1\fcharset204 B;}").text == "Ï"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (rb"a {\b\*\cs7 b} {\*\cs7 c} {\*\unknown d}e", "a b c e"),
        (rb"a {\object\objemb{\*\objclass Word}{\*\objdata 0105}{\result {b}{\pict 00}}} c", "a b c"),
        (rb"{\upr{\b G?ttin}{\*\ud{\b G\u246\'f6ttin}}} x", "Göttin x"),
        (rb"One{\chftn{\footnote\pard Note\chftn .}} more.\par Two\par", "One more.\n\nNote.\n\nTwo"),
        (rb"One{\*\atnid AB}{\*\atnauthor Ada}{\*\annotation{\*\atndate 12}Why?} more.", "One more.\n\nWhy?"),
        (rb"{\header Head}{\footer Foot}Body", "Head\n\nFoot\n\nBody"),
        (rb"a{\*\shpinst{\sp{\sn geo}{\sv 3}}{\shptxt Box\par}}{\shprslt Box}b", "a\n\nBox\n\nb"),
        (rb"a{\shp{\*\shpinst{\sp{\sn gtextUNICODE}{\sv Art}}}}b", "a\n\nArt\n\nb"),
        (rb"{\*\do\dobx{\dptxbxtext Old box\par}}b", "Old box\n\nb"),
        (rb"a{\*\shppict{\pict{\*\picprop{\sp{\sn wzDescription}{\sv A dog}}}8}}{\nonshppict{\pict 8}}", "a\n\nA dog"),
        (rb"{\field{\*\fldinst HYPERLINK x}{\fldrslt link}}", "link"),
        (rb"{\listtext\pard\plain 1.\tab}First{\xe {index}}\par", "1.\tFirst"),
        (rb"a{\deleted old}{\revised new}\deleted x\deleted0 y", "anewy"),
        (rb"{\v hidden} words", "hidden words"),
        (rb"{\mmath{\*\moMath{\mf{\mfPr{\mtype bar}}{\mnum 1}{\mden 2}}}}", "12"),
        (rb"\trowd a\cell\itap2 n\nestcell m\nestcell{\*\nesttableprops\nestrow}{\nonesttables\par}\itap1\cell\row b",
         "a | n | m\n\n\nb"),
    ],
)  # fmt: skip
def test_groups(body: bytes, text: str) -> None:
    """Text boxes, comments, notes, results, substitutes: read once; instructions, data and second forms are not."""
    assert text_of(body) == text


def test_unknown_symbols() -> None:
    """They are read as letters, with a warning; blanks and fonts of letters are none."""
    parsed = read_rtf(rb"{\rtf1" + FONTS + rb"{\fonttbl{\f9\fcharset2 Codes;}}\f9 ab c\f3 ab \f0 c}")
    assert parsed.text == "ab cαβ c"
    assert [(warning.code, warning.count) for warning in parsed.warnings] == [("text_without_unicode", 3)]


def ole1(kind: int, native: bytes) -> bytes:
    """Return an object of OLE 1 as Rich Text writes it."""
    name = struct.pack("<I", 8) + b"Package\0"
    data = struct.pack("<II", 0x501, kind) + name + bytes(8) + struct.pack("<I", len(native)) + native
    return rb"{\object\objemb{\*\objclass Package}{\*\objdata " + data.hex("\n", 20).encode() + rb"}{\result %b}}"


def test_embedded_files() -> None:
    """They follow their paragraph, unless the object shows text; what cannot be read is a warning."""
    file = b"\2\0a.csv\0C:\\a.csv\0\0\0\3\0" + struct.pack("<I", 3) + b"C:\0" + struct.pack("<I", 8) + b"x,y\n1,2\n"

    def read(body: bytes) -> tuple[str, list[str]]:
        raw = RawObject(
            ObjectRef("docs", "a.rtf", "etag", 1, "2024-01-02T03:04:06Z"), b"{\\rtf1 " + body + b"}", None, {}
        )
        document = parse_bytes(raw, FrozenLimits())
        return document.text, [warning.detail for warning in document.warnings]

    assert read(b"a " + ole1(2, file) % b"" + rb"b\par c") == ("a b\n\nx: 1; y: 2\n\nc", [])
    assert read(b"a " + ole1(2, file) % b"shown" + rb"b\par c") == ("a shownb\n\nc", [])
    assert read(b"a " + ole1(1, file) % b"") == ("a", ["An embedded object: linked, not embedded."])
    assert read(b"a " + ole1(2, b"7z\xbc\xaf\x27\x1c\0") % b"") == ("a", ["An embedded object: unsupported_type."])
    assert read(b"a " + ole1(2, b"\x89PNG\r\n\x1a\n\0") % b"") == ("a", [])


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\r\n \n", b"\xef\xbb\xbf\r\n"])
def test_what_may_precede_the_first_brace(start: bytes) -> None:
    """With a byte order mark the file is UTF-8; its escaped bytes are not."""
    raw = "é".encode("utf-8" if start.startswith(b"\xef") else "latin-1")
    assert read_rtf(start + rb"{\rtf1\ansi " + raw + rb" \'e9}").text == "é é"


def test_html_in_rich_text() -> None:
    """Outlook's form: the page is read once, without the formatting for other readers."""
    parsed = read_rtf(
        rb"{\rtf1\ansi\ansicpg1251\fromhtml1 \deff0{\fonttbl{\f0\fcharset204 A;}}"
        rb"{\*\htmltag64 <html><head><title>T</title><style>p \{color:red\}</style></head><body>}"
        rb"{\*\htmltag64 <p>}\htmlrtf {\f0 \htmlrtf0 \'cf\'f0\'e8 {\*\htmltag84 &lt;}\htmlrtf <\htmlrtf0 "
        rb"{\*\htmltag84 <b>}bold{\*\htmltag92 </b>}{\*\mhtmltag a}\htmlrtf\par}\htmlrtf0"
        rb"{\*\htmltag72 </p></body></html>}}"
    )
    assert parsed.text == "При <bold"
    assert parsed.title == "T"


def test_braces_that_do_not_match() -> None:
    """A missing one means that the file is cut short; behind one too many, the text goes on, with a warning."""
    with pytest.raises(ObjectError, match="groups are not closed"):
        read_rtf(rb"{\rtf1 one {\b two}")
    parsed = read_rtf(rb"{\rtf1 one}\par two {\b three}}")
    assert parsed.text == "one\n\ntwo three"
    assert [warning.code for warning in parsed.warnings] == ["part_damaged"]
    for remains in (b"\0\r\n}", b"ve", b"r\\"):
        assert read_rtf(b"{\\rtf1 one}" + remains).text == "one"
        assert read_rtf(b"{\\rtf1 one}" + remains).warnings == ()
    assert read_rtf(b"{\\rtf1 one} from elsewhere").warnings[0].code == "part_unreadable"


@pytest.mark.parametrize(
    "unit", [b"\\f0", b"{\\f1\\fcharset204 A;}", b"\\'83", b"{", b"{\\footnote a}", b"\\u8364", b"{}"]
)
def test_time_is_linear(unit: bytes) -> None:
    """Long runs of fonts, bytes, notes or braces."""
    from ingestion_engine.pipeline.parsing.formats import rtf

    def steps(count: int) -> int:
        closing = b"}" * (count if unit == b"{" else 0)
        body = b"{\\rtf1\\ansi{\\fonttbl{\\f0\\fcharset128 A;}}\\f0 " + unit * count + closing + b" words}"
        return count_lines(lambda: read_rtf(body), rtf)

    assert steps(2_000) < 2.2 * steps(1_000)


def test_a_second_reader_finds_the_same_words() -> None:
    """striprtf, where it reads a construct at all: tables, lists, code pages, Unicode, fields."""
    body = (
        rb"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial Cyr;}}"
        rb"{\colortbl;\red0\green0\blue0;}{\stylesheet{\s0 Normal;}}{\info{\title T}{\author A}}"
        rb"\pard\plain\f0 First \b bold\b0  caf\'e9 \ldblquote quoted\rdblquote\par"
        rb"{\listtext\tab 1.}item \u8364? \endash  end\par\f1\'cf\'f0\'e8\'e2\'e5\'f2\f0  back\par"
        rb"\trowd\intbl one\cell two\cell\row\pard{\field{\*\fldinst PAGE}{\fldrslt 7}} last\par}"
    )
    assert (
        read_rtf(body).text.replace("|", " ").split() == rtf_to_text(body.decode("latin-1")).replace("|", " ").split()
    )
