"""XML as it is written: entities without a DTD, characters that should have been escaped, HTML in feeds, pictures."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import Document, ObjectRef, RawObject
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.parse import parse_bytes


def read(text: str, key: str = "a.xml") -> Document:
    body = text.encode()
    ref = ObjectRef("docs", key, "etag", len(body), "2024-01-02T03:04:06Z")
    return parse_bytes(RawObject(ref, body, None, {}), FrozenLimits())


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("<a>caf&eacute;&nbsp;&copy; 2026</a>", "a: café © 2026"),
        ("<a t='caf&eacute;'>x</a>", "a.t: café\na: x"),
        ("<!DOCTYPE a SYSTEM 'a.dtd'><a t='&eacute;&product;'>&eacute;&product;</a>", "a.t: é&product;\na: é&product;"),
        (
            "<!DOCTYPE a [<!ENTITY product 'Engine'>]><a t='&product; 1'>The &product;</a>",
            "a.t: Engine 1\na: The Engine",
        ),
        ("<a>AT&T, R&D & Q&A; 1 < 2 <3</a>", "a: AT&T, R&D & Q&A; 1 < 2 <3"),
        ("<a>x&#0;&#x1F;y&#65;&#x42;</a>", "a: xyAB"),
        ("<a><![CDATA[AT&T &nbsp; < 3 ]]>&amp; more</a>", "a: AT&T &nbsp; < 3 & more"),
        ("<a>&lt;p&gt; and &amp;nbsp; are kept</a>", "a: <p> and &nbsp; are kept"),
        ("<p>in<b>line</b>s <!-- no -->and<?no no?> m<i>o</i>re</p>", "p: inlines and more"),
        ("<x:a xmlns:x='u' x:id='7' xml:lang='en'><x:b>t</x:b></x:a>", "a.id: 7\nb: t"),
    ],
)
def test_documents(document: str, text: str) -> None:
    """Nothing that a reader sees is dropped, and nothing that is code becomes text."""
    found = read(document)
    assert (found.text, found.content_type, found.warnings) == (text, "application/xml", ())


def test_external_entities_are_named() -> None:
    """They are not fetched, and that is not silent."""
    document = read("<!DOCTYPE b [<!ENTITY c SYSTEM 'chapter.xml'>]><b><p>Before</p>&c;<p>After</p></b>")
    assert document.text == "p: Before\np: After"
    (warning,) = document.warnings
    assert (warning.code, warning.count, warning.detail) == (
        "part_unreadable", 1, "The external entity chapter.xml is not read."
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["<a><b>words</a></b>", "<a x=1>words</a>", "<a>words</a><a>more</a>", "<a b='1' b='2'>words</a>"]
)
def test_what_is_not_well_formed_is_read_as_text(text: str) -> None:
    """All of it is there."""
    document = read(text)
    assert (document.text, document.content_type) == (text, "text/plain")


@pytest.mark.parametrize("text", ["<a><b>words", "<a>words</a", "<a><![CDATA[words", "<a><!-- words", "<a t='words"])
def test_what_is_cut_short_fails(text: str) -> None:
    """Nothing says what is missing."""
    with pytest.raises(ObjectError) as caught:
        read(text)
    assert caught.value.code == "corrupt_document"


FEED = """<?xml version="1.0"?><rss><channel><title>News &amp; more</title><item>
<description><![CDATA[<p>One &amp; <b>t</b>wo</p><img src="x" alt="alt"><p>three</p>]]></description></item><item>
<description>&lt;p&gt;Four&amp;nbsp;five&lt;/p&gt;</description></item><item><description>1 &lt; 2</description>
</item></channel></rss>"""


def test_html_in_feeds_is_read_once() -> None:
    """Words of the entries, not their tags, in CDATA as well as escaped."""
    document = read(FEED)
    assert document.text == (
        "title: News & more\ndescription: One & two alt three\ndescription: Four five\ndescription: 1 < 2"
    )
    assert document.title == "News & more"


def test_pictures_have_text() -> None:
    """The text of an SVG without its style."""
    svg = (
        "<svg><title>Plan</title><style>text{fill:red}</style><text>Hall <tspan>one</tspan></text>"
        "<script>no</script></svg>"
    )
    assert read(svg, "a.svg").text == "title: Plan\ntext: Hall one"
