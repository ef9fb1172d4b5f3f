"""Labels of encodings: read as browsers read them, with Python's codecs."""

from __future__ import annotations

import codecs

import pytest
import webencodings.labels

from ingestion_engine.pipeline.parsing.decode import decode_text
from ingestion_engine.pipeline.parsing.labels import resolve_label


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        *((label, "cp1252") for label in ("ISO-8859-1", "latin1", "latin-1", "l1", "us-ascii", "ASCII", "cp819")),
        *((label, "cp1252") for label in (" Windows-1252 ", '"cp1252"', "x-user-defined", "windows-28591", "1252")),
        *((label, "cp932") for label in ("shift_jis", "x-sjis", "sjis", "ms_kanji", "windows-31j", "cp932", "932")),
        *((label, "gb18030") for label in ("gb2312", "gbk", "x-gbk", "GB_2312-80", "cp936", "gb18030")),
        *((label, "big5hkscs") for label in ("big5", "x-x-big5", "cn-big5", "cp950", "big5-hkscs")),
        *((label, "cp949") for label in ("euc-kr", "ks_c_5601-1987", "korean", "cp949", "51949")),
        *((label, "cp874") for label in ("tis-620", "iso-8859-11", "windows-874", "dos-874")),
        *((label, "cp1254") for label in ("iso-8859-9", "latin5", "28599")),
        *((label, "iso8859-8") for label in ("iso-8859-8-i", "hebrew", "logical", "28598")),
        *((label, "utf-8") for label in ("unicode-1-1-utf-8", "UTF8", "utf-8-sig", "cp65001")),
        *((label, "utf-16-le") for label in ("utf-16", "unicode", "ucs-2", "iso-10646-ucs-2", "cp1200")),
        ("macintosh", "mac-roman"), ("x-mac-cyrillic", "mac-cyrillic"), ("x-mac-ce", "mac-latin2"),
        ("cp850", "cp850"), ("ibm850", "cp850"), ("dos-852", "cp852"), ("IBM866", "cp866"), ("koi8-r", "koi8-r"),
        ("iso-2022-jp", "iso2022_jp_ext"), ("iso-2022-kr", "iso2022_kr"), ("hz-gb-2312", "hz"), ("utf-7", "utf-7"),
        ("windows-1361", "johab"), ("utf-32", "utf-32-le"),
    ],
)  # fmt: skip
def test_labels_are_read_as_browsers_read_them(label: str, codec: str) -> None:
    """Narrow names stand for the wider encodings that writers of them really use."""
    assert resolve_label(label) == codec


@pytest.mark.parametrize(
    "label",
    ["", " ", None, "unknown-8bit", "x-unknown", "rot13", "hex", "base64", "idna", "punycode", "unicode_escape",
     "undefined", "cp1", "99999", "büro", "a\0b"],
)  # fmt: skip
def test_what_is_no_encoding_of_text_is_unknown(label: str | None) -> None:
    """Python's other codecs, and names of nothing, declare nothing."""
    assert resolve_label(label) is None


def test_every_label_of_the_standard_has_a_codec() -> None:
    """Only the encodings that browsers refuse may be missing, and one of them has no codec in Python."""
    missing = {label for label in webencodings.labels.LABELS if resolve_label(label) is None}
    assert missing == {"iso-2022-cn", "iso-2022-cn-ext", "replacement"}
    for label in set(webencodings.labels.LABELS) - missing:
        codec = resolve_label(label)
        assert codec is not None
        assert codecs.lookup(codec)


@pytest.mark.parametrize("label", ["iso-8859-1", "us-ascii", "latin-1", "windows-1252"])
def test_quotes_and_the_euro_in_declared_latin_1_are_those_of_windows(label: str) -> None:
    """Bytes that ISO 8859-1 gives to control characters are what Windows writes there."""
    body = b"\x93Quoted\x94 it\x92s \x80 5 \x96 caf\xe9 \xdf\xfe\xf0"
    assert decode_text(body, declared=label) == "“Quoted” it’s € 5 – café ßþð"  # noqa: RUF001 - these quotes are meant
