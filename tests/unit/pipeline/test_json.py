"""JSON as programs, exports and people write it; notebooks; what is no text inside of them."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from ingestion_engine.domain.records import Document, ObjectRef, RawObject, ReadWarning, TextFormat
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus.broken import build_noise

PICTURE = base64.b64encode(build_noise(3000, 1)).decode()


def read(key: str, body: str | bytes) -> Document:
    body = body.encode() if isinstance(body, str) else body
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    return parse_bytes(RawObject(ref, body, None, {}), FrozenLimits())


ADA = '{"name": "Ada", "city": "London"}'
BOB = '{"name": "Bob", "city": "Paris"}'
BOTH = "name: Ada\ncity: London\n\nname: Bob\ncity: Paris"


@pytest.mark.parametrize(
    "text",
    [
        f"{ADA}\n{BOB}\n",
        f"{ADA}\r\n\r\n{BOB}",
        f"{ADA}{BOB}",
        f"{ADA} {BOB}",
        f"{ADA},\n{BOB},\n",
        f"{ADA}{BOB}\n{ADA}{BOB}\n",
        f"\ufeff{ADA}\n\ufeff{BOB}\n",
        "\x1e" + ADA.ljust(80) + "\n\x1e" + BOB.ljust(80) + "\n",
        json.dumps(json.loads(ADA), indent=2) + "\n" + json.dumps(json.loads(BOB), indent=2),
    ],
)
@pytest.mark.parametrize("key", ["part-00000.json", "a.jsonl", "stream-1-2026-01-01-00"])
def test_records_one_after_another(text: str, key: str) -> None:
    """As Spark, Firehose, jq, MongoDB and RFC 7464 write them, under any name that JSON has."""
    if key.startswith("stream") and not text.startswith("{"):
        key = "a.json"  # without a name, only an object counts as JSON
    document = read(key, text)
    assert document.text.startswith(BOTH)
    assert document.warnings == ()
    assert document.content_type in ("application/json", "application/x-ndjson")
    assert read("a.json.gz", gzip.compress(text.encode())).text == document.text


@pytest.mark.parametrize("key", ["a.json-seq", "a.json", "a"])
def test_short_records_of_a_text_sequence(key: str) -> None:
    """A mark before every record is a control character, and many of them are no sign of binary data."""
    body = "".join(f'\x1e{{"n": {number}}}\n' for number in range(100))
    assert read(key, body).text == "\n\n".join(f"n: {number}" for number in range(100))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{\n  // a comment\n  "editor": "words",\n}\n', "editor: words"),
        ('/* first */ {"a": [1, 2, /* last */ ], "b": {"c": 1,},}', "a: 1, 2\nb.c: 1"),
        ('// only\n{"url": "http://x/*y*/", "s": "a\\\\", "t": "\\"//"}', 'url: http://x/*y*/\ns: a\\\nt: "//'),
        ('{"a": 1} // end', "a: 1"),
        ('{"a": [], "b": [ , , ]}', None),
        ('{"a": NaN, "b": -Infinity}', "a: NaN\nb: -Infinity"),
    ],
)
def test_json_as_people_write_it(text: str, expected: str | None) -> None:
    """Comments and trailing commas are no values; what is in strings stays."""
    document = read("settings.json", text)
    assert document.text == (text if expected is None else expected)
    assert document.content_type == ("text/plain" if expected is None else "application/json")


def test_a_bad_line_costs_that_line() -> None:
    """Its number and the reason are in the warning; also a last line that is cut."""
    document = read("a.jsonl", f'{ADA}\n{{"name": oops}}\n{BOB}\n{{"name": "cut')
    assert document.text == BOTH
    (warning,) = document.warnings
    assert (warning.code, warning.count) == ("lines_skipped", 2)
    assert warning.detail == "Line 2 is not JSON: Expecting value."
    (cut,) = read("a.jsonl", f'{ADA}\n{{"name": "cut\n{BOB}').warnings
    assert cut.detail == "Line 2 is not JSON: Unterminated string."


def test_where_most_lines_are_bad_all_of_them_are_text() -> None:
    """A file that only seems to have records is read as it is."""
    text = f"{ADA}\nsome words\nmore words\n"
    document = read("a.jsonl", text)
    assert (document.text, document.content_type, document.warnings) == (text, "text/plain", ())


def test_bytes_in_base64_are_no_text() -> None:
    """They are left out with a warning that names them; a data URL has its type and is no surprise."""
    lines = "\n".join(PICTURE[at : at + 76] for at in range(0, len(PICTURE), 76))
    value = {
        "scan": {"png": PICTURE},
        "pages": [lines, "two"],
        "logo": f"data:image/png;base64,{PICTURE}",
        "hash": "A1b" * 30,
    }
    for key, text in (("a.json", json.dumps(value)), ("a.jsonl", json.dumps(value))):
        document = read(key, text)
        assert document.text == f"pages: two\nlogo: \nhash: {'A1b' * 30}"
        assert document.warnings == (
            ReadWarning("base64_left_out", 2, f"scan.png is {len(PICTURE):,} characters of base64."),
        )


def cell(kind: str, source: str | list[str], **more: Any) -> dict[str, Any]:
    return {"cell_type": kind, "metadata": {}, "source": source, **more}


CELLS = [
    cell("markdown", ["# The title\n", "\n", f"![plot](data:image/png;base64,{PICTURE})"]),
    cell("code", ["import os\n", "print(1)\n"], outputs=[
        {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]},
        {"output_type": "display_data", "data": {"image/png": PICTURE, "text/plain": ["<Figure size 1x1>"]}},
        {"output_type": "execute_result", "data": {"text/plain": "   a\n0  7", "text/html": "<table><td>7</table>"}},
        {"output_type": "display_data", "data": {"text/plain": "<IPython.core.display.HTML object>",
                                                 "text/html": ["<p>Rich ", "words</p>"]}},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[0;31mE\x1b[0m: v", "line 2"]},
        {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}},
    ]),
    cell("raw", "As it is"),
    cell("code", "s = '```'"),
]  # fmt: skip
NOTEBOOK = {
    "cells": CELLS,
    "metadata": {"kernelspec": {"language": "python"}, "widgets": {"state": {"x": "no words"}}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
EXPECTED = (
    "# The title\n\n![plot]()\n\n```python\nimport os\nprint(1)\n```\n\n```\n1\n2\n```\n\n```\n   a\n0  7\n```\n\n"
    "Rich words\n\n```\nE: v\nline 2\n```\n\nAs it is\n\n````python\ns = '```'\n````"
)


@pytest.mark.parametrize("key", ["a.ipynb", "a.json", "noname"])
def test_notebooks(key: str) -> None:
    """Lines are intact, of every result one form is read, and pictures, widgets and colours are left out."""
    document = read(key, json.dumps(NOTEBOOK, indent=1))
    assert document.text == EXPECTED
    assert (document.title, document.text_format) == ("The title", TextFormat.MARKDOWN)
    assert document.content_type == "application/x-ipynb+json"
    assert document.warnings == ()


def test_notebooks_of_format_3() -> None:
    """Worksheets, inputs, headings with levels, and results whose forms are named without a media type."""
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Old\n"]},
        {"cell_type": "code", "language": "python", "input": ["x = 1\n", "x"], "outputs": [
            {"output_type": "pyout", "text": ["1"], "png": PICTURE, "prompt_number": 1},
            {"output_type": "stream", "stream": "stdout", "text": "two"},
            {"output_type": "pyerr", "ename": "E", "evalue": "v", "traceback": []},
        ]},
    ]  # fmt: skip
    document = read("a.ipynb", json.dumps({"nbformat": 3, "metadata": {}, "worksheets": [{"cells": cells}]}))
    assert document.text == "## Old\n\n```python\nx = 1\nx\n```\n\n```\n1\n```\n\n```\ntwo\n```\n\n```\nE: v\n```"


@pytest.mark.parametrize("text", ['{"cells": 1}', '{"a": "\\"cell_type\\""}', '{"cells": [{"no": "cell_type"}]}'])
def test_other_json_under_a_notebooks_name(text: str) -> None:
    """It is read as the JSON that it is; a notebook cut short fails."""
    assert read("a.ipynb", text).content_type == "application/json"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"![a cat](data:image/png;base64,{PICTURE}) sat", "![a cat]() sat"),
        (f"[logo]: <data:image/gif;base64,{PICTURE}>\nwords", "[logo]: <>\nwords"),
        (f"<img alt='a' src='data:image/png;base64,{PICTURE}'> words", "<img alt='a' src=''> words"),
        (
            f'<img src="data:image/png;base64,\n  {PICTURE[:76]}\n  {PICTURE[76:152]}\n  {PICTURE[:20]}"> words',
            '<img src=""> words',
        ),
        (f"![x](data:image/svg+xml;charset=utf-8,{'%3Csvg%20' * 30}) words", "![x]() words"),
        (f"url(data:font/woff2;base64,{PICTURE}) words", "url() words"),
        ("`data:image/png;base64,iVBORw0KGgo=` is a data URL", "`data:image/png;base64,iVBORw0KGgo=` is a data URL"),
        ("data: the plural of datum, data:a/b too" + "x" * 90, "data: the plural of datum, data:a/b too" + "x" * 90),
    ],
)
@pytest.mark.parametrize("key", ["a.md", "a.txt", "a.css"])
def test_data_urls_are_no_text(text: str, expected: str, key: str) -> None:
    """The description of the picture stays, and so do words that only mention one."""
    assert read(key, text).text == expected


def test_data_urls_of_pages_and_feeds_are_no_text() -> None:
    """Also where a page writes one in its text, and in the HTML of a feed."""
    url = f"data:image/png;base64,{PICTURE}"
    assert read("a.html", f"<html><p>One <img alt='two' src='{url}'> three {url}").text == "One two three"
    assert read("a.xml", f"<rss><item><![CDATA[<img src='{url}'/> words]]></item></rss>").text.count(PICTURE[:70]) == 0
