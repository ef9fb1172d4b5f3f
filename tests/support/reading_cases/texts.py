"""Cases of plain text, encodings, Markdown, HTML, XML, JSON and tables."""

# ruff: noqa: RUF001 - the cases are about letters of many scripts

from __future__ import annotations

import base64
import gzip
import json

from support.reading_cases.case import ReadingCase

_JSON_LINES = '{"name": "Ada", "city": "London"}\n{"name": "Bob", "city": "Paris"}\n'
_ROWS = ("name: Ada", "city: London", "name: Bob", "city: Paris")
_HUNGARIAN = "Az árvíztűrő tükörfúrógép híres magyar szöveg. A gyerekek örülnek a hűvös időnek. " * 10
_QUOTES = ("“Quoted” it’s € 5 – café",)
_NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "source": ["import os\n", "print(1)\n"],
            "outputs": [{"data": {"image/png": base64.b64encode(bytes(range(256)) * 80).decode()}}],
        }
    ]
}

PATTERNS = (
    ReadingCase(
        key="f01_notes.md",
        body=("<!-- one line of a licence header -->\n" * 20 + "# Title\n" + "body words\n" * 400).encode(),
        contains=("Title", "body words"),
    ),
    ReadingCase(
        key="f01_config.xml",
        body=(
            '<?xml version="1.0"?>\n'
            + "<!-- licence line -->\n" * 26
            + "<config>\n"
            + "<a>words</a>\n" * 400
            + "</config>"
        ).encode(),
        contains=("words",),
    ),
    ReadingCase(
        key="f02_rule.md",
        body=(
            "para " * 200 + "\n\n## Title\n\n" + "# " * 24 + "\nshort words\n\n## Title\n\n" + "para " * 300
        ).encode(),
        contains=("## Title", "short words", "## Title"),
    ),
)
"""Inputs that took exponential time."""

JSON = (
    ReadingCase(
        key="f09_part-00000.json", body=_JSON_LINES.encode(), contains=_ROWS, content_type="application/x-ndjson"
    ),
    ReadingCase(
        key="f09_events.json.gz",
        body=gzip.compress(_JSON_LINES.encode(), mtime=0),
        contains=_ROWS,
        content_type="application/x-ndjson",
    ),
    ReadingCase(
        key="f09_settings.json", body=b'{\n  // a comment\n  "editor": "words",\n}\n', contains=("editor", "words")
    ),
    ReadingCase(
        key="f20_nb.ipynb",
        body=json.dumps(_NOTEBOOK).encode(),
        lines=("import os", "print(1)"),
        lacks=(base64.b64encode(bytes(range(30))).decode(),),
    ),
)

MARKS = (
    ReadingCase(
        key="f10_howto.md",
        body=("# Reading PDF\n\nEvery file begins with `%PDF-1.7`.\n" + "More words. " * 50).encode(),
        contains=("Every file begins with `%PDF-1.7`.", "More words."),
        content_type="text/markdown",
    ),
    ReadingCase(
        key="f10_sniff.py",
        body=b'MARKS = {b"%PDF-": "application/pdf"}\n',
        contains=('MARKS = {b"%PDF-": "application/pdf"}',),
        content_type="text/plain",
    ),
    ReadingCase(
        key="f10_page.html",
        body=b"<html><body><p>%PDF-1.4 starts a PDF</p></body></html>",
        contains=("%PDF-1.4 starts a PDF",),
        lacks=("<p>",),
        content_type="text/html",
    ),
    ReadingCase(
        key="f10_box.txt",
        body=b"the ftyp box names the brand of the file\n",
        contains=("the ftyp box names",),
        content_type="text/plain",
    ),
    ReadingCase(
        key="f20_feed.xml",
        body=b'\n<?xml version="1.0"?><rss><title>Feed</title><item>words</item></rss>',
        contains=("Feed", "words"),
        lacks=("<",),
    ),
)
"""Texts that mention what other formats begin with."""

ENCODINGS = (
    ReadingCase(
        key="f11_page.html",
        body=(
            b'<html><head><meta charset="iso-8859-1"></head>'
            b"<body>\x93Quoted\x94 it\x92s \x80 5 \x96 caf\xe9</body></html>"
        ),
        contains=_QUOTES,
    ),
    ReadingCase(key="f18_hungarian_1250.txt", body=_HUNGARIAN.encode("cp1250"), contains=(_HUNGARIAN[:82].strip(),)),
    ReadingCase(
        key="f18_hungarian_8859-2.txt", body=_HUNGARIAN.encode("iso8859-2"), contains=(_HUNGARIAN[:82].strip(),)
    ),
    ReadingCase(
        key="f18_japanese_932.txt",
        body=("ﾃｽﾄ ﾃﾞｰﾀ 商品ｺｰﾄﾞ 名称 " * 20).encode("cp932"),
        contains=("ﾃｽﾄ ﾃﾞｰﾀ 商品ｺｰﾄﾞ 名称",),
    ),
    ReadingCase(
        key="f18_russian_866.txt",
        body=("Сегодня хорошая погода, и мы едем на море с друзьями. " * 10).encode("cp866"),
        contains=("Сегодня хорошая погода, и мы едем на море с друзьями.",),
    ),
    ReadingCase(
        key="f18_jis_kana.txt",
        body=b"\x1b$BF|K\\8l\x1b(B and \x1b(IC=D\x1b(B end",
        contains=("日本語 and ﾃｽﾄ end",),
        lacks=("$BF",),
    ),
)

TABLES = (
    ReadingCase(key="f17_pandas.csv", body=b",name,city\n0,Ada,London\n", contains=("name: Ada; city: London",)),
    ReadingCase(
        key="f17_years.csv", body=b"country,2019,2020\nPeru,11,12\n", contains=("country: Peru; 2019: 11; 2020: 12",)
    ),
    ReadingCase(
        key="f17_sep.csv",
        body=b"sep=;\nname;city\nAda;London\n",
        contains=("name: Ada; city: London",),
        lacks=("sep=",),
    ),
    ReadingCase(key="f17_nul.csv", body=b"name,city\nAda\0,London\n", contains=("name: Ada", "city: London")),
)
