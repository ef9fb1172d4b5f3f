"""Pages as browsers read them: broken ones too, each text once, tables with their header."""

from __future__ import annotations

import pytest

from ingestion_engine.pipeline.parsing.formats.html import read_html


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>a<!-- no -->b<!-->c<!--->d<!-- no --!>e</>f</ no>g<!no>h", "abcdefgh"),
        ("<p>a<?php echo '<p>no</p>'; $x->y ?>b<?xml no?>c", "abc"),
        (
            "<p>1 < 2 <3 <é &lt; &copy 2 &#146; &#0; &amp;amp; &nosuch;",
            "1 < 2 <3 <é < © 2 \u2019 \ufffd &amp; &nosuch;",
        ),
        ("<script>if (a </b) {}</scrip></SCRIPT >a<style>p{}</style>b<template>no</template>c", "abc"),
        ("<script src=/x/>no</script>a<script src='x'/>b<title/>c<script><!-- </script>d", "ab\n\ncd"),
        ("<textarea>\n<b>a</textarea>b<title>no & more</title>c", "<b>a\n\nb\n\nc"),
        ("<p>a <i>b <b>c</i> d</b> e<p>f</div></p>g", "a b c d e\n\nf\n\ng"),
        ("<p>no<b>in</b>e wo<wbr>rd <span>a</span><img alt='the  alt'>b<img alt=''>", "noine word a the alt b"),
        ('<a title=\'no > "\' href=x>a</a>,<A HREF="x>y" >b</A\n><br/>c<BR>d</br>e', "a,b\nc\nd\ne"),
        ("<a>Home</a><a>About <b>us</b></a><span><a>M</a></span>ore <a>p</a>a<a>rt</a>", "Home About us More part"),
        ("<p>cut <a href='x", "cut <a href='x"),
        ('<p>a <a href="never ends>b</a> c', "a b c"),
        ("<select><optgroup label='G h'><option>1<option>2</select><noscript>n</noscript>", "G h\n1\n2\n\nn"),
        ("<input value='v w'><input type=hidden value=no><input type=checkbox value=no><button>B</button>", "v w\n\nB"),
        ("<p hidden>kept</p><p style='display:none'>too</p>", "kept\n\ntoo"),
        ("<iframe src=x>no</iframe><iframe srcdoc='<p>in &amp;lt; side</p>'></iframe>a", "in < side\n\na"),
        ("<svg><title>Logo</title><text>T</text></svg><svg/>a", "Logo T\n\na"),
        ("<math><mi>a</mi><annotation encoding='TeX'>no</annotation></math>b", "ab"),
        ("<![CDATA[a < b]]> c<xmp><b>&amp;</xmp>d", "a < b c\n\n```\n<b>&amp;\n```\n\nd"),
        ("<pre><div>a</div><div>b</div><span>c</span>\n  d</pre>e", "```\na\nb\nc\n  d\n```\n\ne"),
        ("<pre>a\n```\nb</pre>", "````\na\n```\nb\n````"),
        ("<plaintext><b>a", "<b>a"),
    ],
)
def test_pages(page: str, text: str) -> None:
    """Tags are tags and text is text where a browser says so."""
    assert read_html(page).text == text


def test_titles() -> None:
    """The page's, not that of a picture in it; or the first heading."""
    assert read_html("<svg><title>Logo</title></svg><h1>First <i>one</i></h1><h1>Second</h1>").title == "First one"
    assert read_html("<title>T &amp;\n U</title><svg><title>Logo</title></svg><h1>H</h1>").title == "T & U"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (
            "a<table><caption>Cap</caption><tr><th>x<th>y|z<tbody><tr><td><p>1</p><p>2</p><td>3</table>b",
            "a\n\nCap\n\nx | y\\|z\n--- | ---\n1 2 | 3\n\nb",
        ),
        ("<table><thead><tr><td>x<td>y</thead><tr><td>1</table>", "x | y\n--- | ---\n1 | "),
        (
            "<table><tr><th colspan=2>x<th>y<tr><td>1<td>2<td><br>3",
            "x |  | y\n--- | --- | ---\n1 | 2 | 3",
        ),
        ("<table><tr><td>1<td>2<tr><td><td>4</table>", "1 | 2\n4"),
        ("<table><tr><th>name<td>Ada<tr><th>city<td>London</table>", "name | Ada\ncity | London"),
        (
            "<table><tr><td><h2>Nav</h2><ul><li>x</ul><td>Main<table><tr><td>in<td>side</table>out</table>",
            "## Nav\n- x\n\nMain\n\nin | side\n\nout",
        ),
        ("<table><tr><td>" + "long words " * 300 + "<td>b</table>", "long words " * 299 + "long words\n\nb"),
        ("<tr><td>a<td>b</tr>c", "a\n\nb\n\nc"),
        ("<table>early<tr><td>a</td>late<td>b", "early\n\nlate\n\na | b"),
        ("<table><tr><td><ul><li>a</table><ul><li>b", "- a\n\n- b"),
    ],
)
def test_tables(page: str, text: str) -> None:
    """Rows are lines, a header is marked for the chunks behind it, and a page laid out by tables keeps its blocks."""
    assert read_html(page).text == text


def test_tables_inside_tables() -> None:
    """Every text is there once, at any depth."""
    depth = 200
    page = "<table><tr><td>a".join(f" w{level} " for level in range(depth))
    text = read_html(page).text
    assert [text.count(f"w{level} ") + text.count(f"w{level}\n") for level in range(depth - 1)] == [1] * (depth - 1)
