"""Detect the type of a file: by its content first, then its name, then its declared type."""

from __future__ import annotations

import codecs
import json
import posixpath
import re

import orjson

from ingestion_engine.pipeline.parsing.archives import detect_compound, detect_zip
from ingestion_engine.pipeline.parsing.kinds import MARKED, Detected, Kind

_SUFFIXES = {
    ".txt": Kind.TEXT, ".text": Kind.TEXT, ".log": Kind.TEXT,
    ".md": Kind.MARKDOWN, ".markdown": Kind.MARKDOWN, ".mdx": Kind.MARKDOWN, ".mkd": Kind.MARKDOWN,
    ".mdown": Kind.MARKDOWN, ".qmd": Kind.MARKDOWN, ".rmd": Kind.MARKDOWN,
    ".html": Kind.HTML, ".htm": Kind.HTML, ".xhtml": Kind.HTML, ".xht": Kind.HTML, ".shtml": Kind.HTML,
    ".csv": Kind.CSV, ".tsv": Kind.CSV, ".tab": Kind.CSV,
    ".json": Kind.JSON, ".geojson": Kind.JSON, ".jsonld": Kind.JSON, ".ipynb": Kind.NOTEBOOK,
    ".jsonc": Kind.JSON, ".json5": Kind.JSON, ".webmanifest": Kind.JSON, ".har": Kind.JSON,
    ".jsonl": Kind.JSONL, ".ndjson": Kind.JSONL, ".json-seq": Kind.JSONL, ".jsons": Kind.JSONL,
    ".eml": Kind.EMAIL, ".mht": Kind.EMAIL, ".mhtml": Kind.EMAIL, ".mbox": Kind.EMAIL, ".mbx": Kind.EMAIL,
    ".rtf": Kind.RTF, ".pdf": Kind.PDF, ".epub": Kind.EPUB,
    ".docx": Kind.DOCX, ".docm": Kind.DOCX, ".dotx": Kind.DOCX, ".dotm": Kind.DOCX,
    ".pptx": Kind.PPTX, ".pptm": Kind.PPTX, ".ppsx": Kind.PPTX, ".potx": Kind.PPTX,
    ".ppsm": Kind.PPTX, ".potm": Kind.PPTX,
    ".xlsx": Kind.XLSX, ".xlsm": Kind.XLSX, ".xltx": Kind.XLSX, ".xltm": Kind.XLSX,
} | dict.fromkeys((
    ".xml", ".rss", ".atom", ".rdf", ".svg", ".kml", ".gpx", ".opml", ".plist", ".xsd", ".xsl", ".xslt", ".wsdl",
    ".dita", ".ditamap", ".dbk", ".docbook", ".tei", ".fb2", ".xliff", ".xlf", ".tmx", ".nxml", ".jats", ".musicxml",
), Kind.XML) | dict.fromkeys((
    ".rst", ".adoc", ".asciidoc", ".asc", ".org", ".tex", ".latex", ".bib", ".textile", ".wiki", ".mediawiki", ".typ",
    ".srt", ".vtt", ".ass", ".po", ".pot", ".diff", ".patch",
    ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".properties", ".env", ".tf", ".hcl", ".proto", ".graphql",
    ".py", ".pyi", ".rb", ".pl", ".lua", ".r", ".jl", ".sh", ".bash", ".zsh", ".ps1", ".bat", ".sql",
    ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cs", ".java", ".kt", ".kts", ".scala", ".groovy", ".gradle", ".swift",
    ".go", ".rs", ".zig", ".hs", ".ml", ".ex", ".exs", ".erl", ".clj", ".el", ".dart", ".m", ".f90", ".asm", ".v",
    ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".css", ".scss", ".sass", ".less", ".vue", ".svelte", ".astro",
    ".php", ".phtml", ".jsp", ".jspx", ".asp", ".aspx", ".cshtml", ".razor", ".erb", ".ejs", ".hbs", ".mustache",
    ".j2", ".jinja", ".jinja2", ".tmpl", ".tpl", ".twig", ".liquid", ".haml", ".pug",
), Kind.SOURCE)  # fmt: skip

_DECLARED = {kind.value: kind for kind in Kind if kind not in (Kind.TEXT, Kind.SOURCE)} | {
    "application/xhtml+xml": Kind.HTML,
    "text/x-markdown": Kind.MARKDOWN,
    "text/tab-separated-values": Kind.CSV,
    "application/csv": Kind.CSV,
    "text/json": Kind.JSON,
    "application/jsonl": Kind.JSONL,
    "application/ndjson": Kind.JSONL,
    "application/jsonlines": Kind.JSONL,
    "application/json-lines": Kind.JSONL,
    "application/x-jsonlines": Kind.JSONL,
    "application/json-seq": Kind.JSONL,
    "text/xml": Kind.XML,
    "text/rtf": Kind.RTF,
    "message/global": Kind.EMAIL,
    "application/mbox": Kind.EMAIL,
    "multipart/related": Kind.EMAIL,
    "application/x-mimearchive": Kind.EMAIL,
    "text/css": Kind.SOURCE,
    "text/javascript": Kind.SOURCE,
    "application/javascript": Kind.SOURCE,
    "application/yaml": Kind.SOURCE,
    "application/x-yaml": Kind.SOURCE,
    "application/toml": Kind.SOURCE,
    "application/x-sh": Kind.SOURCE,
    "application/x-httpd-php": Kind.SOURCE,
}

_DECLARED_SYNTAX = (("+json", Kind.JSON), ("+xml", Kind.XML), ("+json-seq", Kind.JSONL))
"""Endings of media types that name the syntax, such as ``application/ld+json`` (RFC 6839, RFC 8091)."""

# Unsupported types that errors can name: (offset, bytes, media type).
_UNSUPPORTED = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"), (0, b"\xff\xd8\xff", "image/jpeg"), (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"II*\0", "image/tiff"), (0, b"MM\0*", "image/tiff"), (8, b"WEBP", "image/webp"),
    (0, b"8BPS", "image/vnd.adobe.photoshop"),
    (0, b"\0\0\1\0", "image/x-icon"), (0, b"\0\0\0\x0cjP  ", "image/jp2"),
    (4, b"ftypavif", "image/avif"), (4, b"ftypheic", "image/heic"), (4, b"ftypmif1", "image/heif"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftypqt", "video/quicktime"), (4, b"ftyp", "video/mp4"), (8, b"AVI ", "video/x-msvideo"),
    (8, b"WAVE", "audio/wav"),
    (0, b"\x1aE\xdf\xa3", "video/x-matroska"), (0, b"FLV\1", "video/x-flv"), (0, b"\0\0\1\xba", "video/mpeg"),
    (0, b"\0\0\1\xb3", "video/mpeg"),
    (0, b"ID3", "audio/mpeg"), (0, b"OggS", "audio/ogg"), (0, b"fLaC", "audio/flac"), (0, b"MThd", "audio/midi"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"), (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (0, b"\xfd7zXZ\0", "application/x-xz"), (0, b"BZh", "application/x-bzip2"), (0, b"(\xb5/\xfd", "application/zstd"),
    (0, b"\x04\x22M\x18", "application/x-lz4"), (257, b"ustar", "application/x-tar"),
    (0, b"MSCF", "application/vnd.ms-cab-compressed"), (0, b"\x78\x9f\x3e\x22", "application/ms-tnef"),
    (0, b"MZ", "application/vnd.microsoft.portable-executable"),
    (0, b"\x7fELF", "application/x-executable"), (0, b"\xca\xfe\xba\xbe", "application/java-vm"),
    (0, b"\0asm", "application/wasm"),
    (0, b"\xcf\xfa\xed\xfe", "application/x-mach-binary"), (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
    (0, b"PAR1", "application/vnd.apache.parquet"), (0, b"Obj\1", "application/vnd.apache.avro"),
    (0, b"ORC", "application/vnd.apache.orc"),
    (0, b"ARROW1", "application/vnd.apache.arrow.file"), (0, b"\x89HDF\r\n", "application/x-hdf5"),
    (0, b"wOFF", "font/woff"), (0, b"wOF2", "font/woff2"), (0, b"OTTO", "font/otf"), (0, b"\0\1\0\0\0", "font/ttf"),
)  # fmt: skip


_BLANK_BYTES = 64
"""Bytes at the beginning that may be a byte order mark and blank lines before the mark of Rich Text."""


def named_kind(key: str, declared: str | None) -> Kind | None:
    """Return the kind by the suffix of the name, or else by the declared type; None if neither is known. Pure."""
    suffix = posixpath.splitext(key.rstrip("/ ").lower())[1]
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    media_type = (declared or "").split(";")[0].strip().lower()
    syntax = next((kind for ending, kind in _DECLARED_SYNTAX if media_type.endswith(ending)), None)
    return _DECLARED.get(media_type, syntax)


def detect_marked(body: bytes, named: Kind | None = None) -> Detected:
    """Return the type that the file's first bytes prove; an empty result for anything that may be text. Pure.

    A text may mention any mark, also at its beginning: marks of letters count only where bytes or syntax follow that no
    text about them has.

    Args:
        body: Bytes of the file, or at least its first 4 KiB.
        named: Kind by name or declared type.
    """
    if _begins_pdf(body[:_PDF_HEAD_BYTES], named):
        return Detected(Kind.PDF)
    start = body[:_BLANK_BYTES].removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"{\\rtf") and (named is Kind.RTF or _RTF_GOES_ON.match(start)):
        return Detected(Kind.RTF)
    if body.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK\x03\x04")):
        return detect_zip(body)
    if body.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return Detected(unsupported=detect_compound(body))
    if body.startswith(b"\x1f\x8b"):
        return Detected(unsupported="application/gzip")
    for offset, mark, media_type in _UNSUPPORTED:
        if body.startswith(mark, offset) and (not _is_written(mark) or _has_control(body[: offset + 64])):
            return Detected(unsupported=media_type)
    if body.startswith(b"BM") and body[6:10] == bytes(4):
        return Detected(unsupported="image/bmp")
    return Detected()


def _is_written(mark: bytes) -> bool:
    return mark.isascii() and mark.decode().isprintable()


def _has_control(head: bytes) -> bool:
    return _CONTROL.search(head) is not None


_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a]")
"""Bytes that no text has, except where it is damaged or in UTF-16, which begins with no mark."""

_RTF_GOES_ON = re.compile(rb"\{\\rtf\d{0,3}\s{0,8}[\\{}]")
"""A group of Rich Text with a control word or a group behind its mark; a text about it has words there."""

_PDF_HEAD_BYTES = 4096
_PDF_MARK_BYTES = 1024
"""Readers accept the header of a PDF within its first 1 KiB: behind the headers of HTTP or a printer's commands."""

_PDF_HEADER = re.compile(rb"%PDF-\d\.\d[ \t]*+(?:[\r\n]|\Z)")
"""A header that has its line for itself; a text goes on."""
_PDF_BINARY_COMMENT = re.compile(rb"[\r\n]{0,2}%[\x80-\xff]{4}")
"""The comment behind the header that says that the file is binary; Latin letters in a text are not four in a row."""
_PDF_OBJECT = re.compile(rb"(?:^|[\r\n])[ \t]*+\d{1,10}\s++\d{1,5}\s++obj\b|(?:^|[\r\n])xref\b")
_HTTP_HEAD = re.compile(rb"\s*+HTTP/\d[^\n]*+\n(?:[!-9;-~]++:[^\n]*+\n)*+\r?\n\s*+\Z")


def _begins_pdf(head: bytes, named: Kind | None) -> bool:
    """Return whether a file is a PDF: a header at its beginning, or later and then not as words of a text."""
    at = head.find(b"%PDF-", 0, _PDF_MARK_BYTES)
    if at < 0:
        return False
    before, behind = head[:at], head[at:]
    has_objects = _PDF_OBJECT.search(behind) is not None
    if not before.removeprefix(codecs.BOM_UTF8).strip():
        return has_objects or _has_control(behind) or _PDF_HEADER.match(behind) is not None
    if named is Kind.PDF or _HTTP_HEAD.fullmatch(before):
        return has_objects or _has_control(head)
    header = _PDF_HEADER.match(behind) if before.endswith((b"\n", b"\r")) else None
    return _has_control(head) or (
        header is not None and _PDF_BINARY_COMMENT.match(behind, header.end() - 1) is not None
    )


_HTML_TAG = r"<(?:!doctype\s++html|html|head|body)\b"
_DECLARATION = r"(?:<\?xml[^>]*+>\s*+)"

_HTML_START = re.compile(rf"\s*+{_DECLARATION}?+{_HTML_TAG}", re.IGNORECASE)
_QUOTED_TAG = re.compile(r"\s*+<[^<>]*+>(?!\s*+<)")
"""A page's first tag with words right behind it: a text about tags, if its name is that of a text."""
_COMMENT_START = re.compile(rf"\s*+({_DECLARATION}?+)<!--", re.IGNORECASE)
_HTML_AFTER_COMMENT = re.compile(rf"-->\s*+{_HTML_TAG}", re.IGNORECASE)
_HTML_AFTER_COMMENT_AND_DECLARATION = re.compile(rf"-->\s*+{_DECLARATION}?+{_HTML_TAG}", re.IGNORECASE)
_XML_START = re.compile(r"\s*<\?xml\s", re.IGNORECASE)
_MAY_BE_MAIL = re.compile(rb"\s*+(?:\xef\xbb\xbf\s*+)?(?:From |[!-9;-~]++[ \t]*+:)")
_MAILBOX_LINE = re.compile(r"From (?! *:)[^\n]*+\n")
"""The line before each mail of a mailbox file: sender and time, in many forms."""
_DATED_MAILBOX_LINE = re.compile(r"From \S++ ++[A-Z][a-z]{2} [A-Z][a-z]{2} ++\d{1,2} \d\d?:\d\d")
_MAIL_HEADER = re.compile(r"(?:[!-9;-~]++[ \t]*+:[^\n]*+(?:\n|\Z)(?:[ \t][^\n]*+(?:\n|\Z))*+)++")
_MAIL_NAMES = re.compile(
    r"^(from|to|cc|date|sent|subject|received|message-id|mime-version|return-path|delivered-to|content-type)[ \t]*+:",
    re.IGNORECASE | re.MULTILINE,
)
_MADE_BY_SOFTWARE = re.compile(
    r"^(?:received|message-id|mime-version|return-path|delivered-to|content-type):|=\?[^ \n?]++\?[bq]\?",
    re.IGNORECASE | re.MULTILINE,
)
"""Headers, and letters encoded in headers, that nobody types: a memo has From, To, Date and Subject, but none of them.
"""


HEAD_CHARS = 262_145
"""Characters at the beginning of a long text that determine its kind, if the whole text is not needed."""


def detect_text(text: str, named: Kind | None) -> Kind:
    """Return the kind of a text: by content if that proves it, else by name, else plain text.

    A marked format (``MARKED``) in the name is ignored, because its bytes would have identified it.

    Cost: JSON is parsed once when a file without a known suffix looks like JSON.
    """
    return detect_head(text, named) or Kind.TEXT


def detect_head(text: str, named: Kind | None, *, is_whole: bool = True) -> Kind | None:
    """Return ``detect_text`` of a text by its first ``HEAD_CHARS``; None when the whole text is needed."""
    head = text[:4096]
    if named is Kind.SOURCE:  # a template or a program may begin with a page's first tag
        return Kind.TEXT
    if _begins_html(head) and not (named in (Kind.TEXT, Kind.MARKDOWN) and _QUOTED_TAG.match(head)):
        return Kind.HTML
    if named is Kind.HTML and ("<" in head or "&" in head):
        return Kind.HTML
    if _XML_START.match(head):
        return Kind.XML
    if named is Kind.XML and head.lstrip().startswith("<"):
        return Kind.XML
    if _begins_mail(text, named):
        return Kind.EMAIL
    if named in (None, Kind.TEXT, Kind.EMAIL) or named in MARKED:
        return _detect_unnamed(text, head, is_whole=is_whole)
    if named in _JSON_KINDS:
        return _detect_json(text, named, is_whole=is_whole)
    return named if named in (Kind.MARKDOWN, Kind.CSV) else Kind.TEXT


def _begins_html(head: str) -> bool:
    """Return whether a text is a page: one of its first tags, behind comments and an XML declaration in any order."""
    if _HTML_START.match(head):
        return True
    comment = _COMMENT_START.match(head)
    if comment is None:
        return False
    # What is between the first comment's start and any comment's end counts as comments.
    following = _HTML_AFTER_COMMENT if comment[1] else _HTML_AFTER_COMMENT_AND_DECLARATION
    return following.search(head, comment.end()) is not None


def detect_mail(body: bytes, named: Kind | None) -> bool:
    """Return whether bytes begin with a mail's headers, in ASCII; what follows may be in any encoding, or none. Pure.

    Args:
        body: Bytes of the file, or at least its first 4 KiB.
        named: Kind by the file's name or declared type.
    """
    if not _MAY_BE_MAIL.match(body[:1024]):
        return False
    head = body[:65536].decode("latin-1").removeprefix("\xef\xbb\xbf")
    return _begins_mail(head.replace("\r\n", "\n").replace("\r", "\n"), named)


def _begins_mail(text: str, named: Kind | None) -> bool:
    """Return whether a text begins with a mail's headers: any for a file named so, else what no other text has."""
    if named not in (None, Kind.TEXT, Kind.EMAIL) and named not in MARKED:
        return False
    head = text[:65536].lstrip()
    if named is Kind.EMAIL and _DATED_MAILBOX_LINE.match(head):
        return True
    mailbox = _MAILBOX_LINE.match(head)
    head = head[mailbox.end() :] if mailbox else head
    header = _MAIL_HEADER.match(head)
    if header is None:
        return False
    names = {name.lower() for name in _MAIL_NAMES.findall(header.group())}
    if named is Kind.EMAIL:
        return bool(names)
    ends = head[header.end() : header.end() + 1] in ("", "\n")
    return len(names) >= 3 and ends and _MADE_BY_SOFTWARE.search(header.group()) is not None


def _detect_unnamed(text: str, head: str, *, is_whole: bool) -> Kind | None:
    start = head.lstrip()[:1]
    if start not in ("{", "["):
        return Kind.TEXT
    is_json = _is_json(text) if is_whole else _may_begin_json(text)
    if is_json:
        return _detect_json(text, Kind.JSON, is_whole=True) if is_whole else None
    if start == "{" and _is_jsonl(text):
        return Kind.JSONL
    return Kind.JSON if start == "{" and _begins_several(text) else Kind.TEXT


_JSON_KINDS = frozenset({Kind.JSON, Kind.JSONL, Kind.NOTEBOOK})
_NOTEBOOK_WORDS = re.compile(r'"(cells|worksheets|nbformat)"\s*:')
_PROBE_LINES = 100


def _detect_json(text: str, named: Kind, *, is_whole: bool) -> Kind | None:
    """Return which form of JSON a text is; plain text if it begins like none."""
    head = text[:4096]
    start = head.lstrip()
    if start.startswith(("//", "/*")):
        return Kind.JSON
    if start[:1] not in ("{", "[", '"'):
        return Kind.TEXT
    if _has_json_lines(text):
        return Kind.JSONL
    if start.startswith("{") and (named is Kind.NOTEBOOK or ('"cell_type"' in head and _NOTEBOOK_WORDS.search(head))):
        from ingestion_engine.pipeline.parsing.formats.notebook import is_notebook

        if not is_whole:
            return None
        return Kind.NOTEBOOK if is_notebook(text) else Kind.JSON
    return Kind.JSON


def _has_json_lines(text: str) -> bool:
    """Return whether every line is a record of its own: true of the first line, or of half of the first ones."""
    lines = text[: HEAD_CHARS - 1].split("\n")
    if len(text) >= HEAD_CHARS:
        lines.pop()  # cut in the middle
    lines = [line for line in lines if line.strip()][:_PROBE_LINES]
    if len(lines) < 2:
        return False
    good = sum(_is_record(line) for line in lines)
    return good * 2 >= len(lines) or _is_record(lines[0])


def _is_record(line: str) -> bool:
    """Return whether a line is one or more objects or lists of JSON."""
    from ingestion_engine.pipeline.parsing.formats.json import decode_values

    line = line.strip("\ufeff \t\r")
    try:
        return line.startswith(("{", "[")) and not line.endswith(",") and bool(decode_values(line))
    except (json.JSONDecodeError, RecursionError):
        return False


def _begins_several(text: str) -> bool:
    """Return whether a text begins with two objects of JSON, also with nothing between them."""
    from ingestion_engine.pipeline.parsing.formats.json import skip_gap

    decoder = json.JSONDecoder(strict=False)
    head = text[: HEAD_CHARS - 1].lstrip()
    at = 0
    try:
        for _ in range(2):
            value, end = decoder.raw_decode(head, at)
            if not isinstance(value, dict):
                return False
            at = skip_gap(head, end)
    except (json.JSONDecodeError, RecursionError):
        return False
    return head[at : at + 1] in ("", "{")


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _may_begin_json(head: str) -> bool:
    """False when no text with this beginning can be one JSON value, because of an error well before the end."""
    start = len(head) - len(head.lstrip())
    try:
        _, end = json.JSONDecoder(strict=False).raw_decode(head, start)
    except json.JSONDecodeError as error:
        return not error.msg.startswith("Expecting") or error.pos >= len(head) - 16
    except RecursionError:
        return True
    return not head[end:].strip()


def _is_jsonl(text: str) -> bool:
    lines = text[: HEAD_CHARS - 1].split("\n")
    if len(text) >= HEAD_CHARS:
        lines.pop()  # cut in the middle
    lines = [line for line in lines if line.strip()]
    try:
        return len(lines) > 1 and all(isinstance(orjson.loads(line), dict) for line in lines)
    except orjson.JSONDecodeError:
        return False
