"""Build Office files part by part, as other programs than Word and PowerPoint write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from support.corpus.formats import build_zip

RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
STRICT_RELATIONS = "http://purl.oclc.org/ooxml/officeDocument/relationships"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
STRICT_WORD = "http://purl.oclc.org/ooxml/wordprocessingml/main"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"

_PREFIXES = {
    "w": WORD,
    "r": RELATIONS,
    "a": DRAWING,
    "p": SLIDES,
    "c": "http://schemas.openxmlformats.org/drawingml/2006/chart",
    "dgm": "http://schemas.openxmlformats.org/drawingml/2006/diagram",
    "wp": "http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing",
    "wps": "http://schemas.microsoft.com/office/word/2010/wordprocessingShape",
    "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006",
    "m": "http://schemas.openxmlformats.org/officeDocument/2006/math",
    "v": "urn:schemas-microsoft-com:vml",
    "o": "urn:schemas-microsoft-com:office:office",
    "w14": "http://schemas.microsoft.com/office/word/2010/wordml",
}
NAMESPACES = " ".join(f'xmlns:{prefix}="{address}"' for prefix, address in _PREFIXES.items())

_MAIN_TYPES = {
    "word": "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml",
    "ppt": "application/vnd.openxmlformats-officedocument.presentationml.presentation.main+xml",
    "xl": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml",
}

Relations = Sequence[tuple[str, str, str]]
"""(id, kind, target) of each relation."""

Parts = Mapping[str, str | bytes]


def build_relations(relations: Relations, base: str = RELATIONS) -> str:
    """The relations of a part; a kind with a slash is a whole address, a target with a colon is external."""
    links = ""
    for name, kind, target in relations:
        address = kind if "/" in kind else f"{base}/{kind}"
        mode = ' TargetMode="External"' if ":" in target else ""
        links += f'<Relationship Id="{name}" Type="{address}" Target="{target}"{mode}/>'
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{links}</Relationships>'
    )


def build_package(
    main: str, content: str | bytes, parts: Parts | None = None, *, base: str = RELATIONS, media_type: str = ""
) -> bytes:
    """An Office file with a main part, its content type by its folder unless it is given, and other parts."""
    media_type = media_type or _MAIN_TYPES.get(main.split("/", maxsplit=1)[0], "application/xml")
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/{main}" ContentType="{media_type}"/></Types>'
    )
    members = {
        "[Content_Types].xml": types,
        "_rels/.rels": build_relations([("r1", "officeDocument", main)], base),
        main: content,
        **(parts or {}),
    }
    return build_zip([(name, data.encode() if isinstance(data, str) else data) for name, data in members.items()])


def build_word(
    body: str, parts: Parts | None = None, relations: Relations = (), *, main: str = "word/document.xml"
) -> bytes:
    """A Word file with this content of its body."""
    content = f"<w:document {NAMESPACES}><w:body>{body}</w:body></w:document>"
    folder, name = main.rsplit("/", 1)
    return build_package(main, content, {f"{folder}/_rels/{name}.rels": build_relations(relations), **(parts or {})})


def paragraph(text: str) -> str:
    """A Word paragraph of one run."""
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def cell(content: str) -> str:
    """A table cell with this text, or these blocks."""
    return f"<w:tc>{content if content.startswith('<') else paragraph(content)}</w:tc>"


def table(*rows: str) -> str:
    """A Word table of these rows, each the cells of one row."""
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>"


def damage(body: bytes, member: str) -> bytes:
    """The archive with a byte of a stored or deflated member changed."""
    at = body.index(member.encode()) + len(member) + 20
    return body[:at] + bytes([body[at] ^ 0x5A]) + body[at + 1 :]
