"""RawObject → Document: find out what the bytes are, take their whole text out, or say exactly why there is none.

The type goes by content first and by name second: a ``.pdf`` that really is a readable page of HTML is read as HTML.
A name that contradicts content nobody can read is a ``type_mismatch``.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ingestion_engine.domain.errors import IngestionError, ObjectError
from ingestion_engine.domain.records import Document, PageSpan, RawObject, TextFormat
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing import detect
from ingestion_engine.pipeline.parsing.decode import NotTextError, decode_text, is_utf8
from ingestion_engine.pipeline.parsing.detect import Kind
from ingestion_engine.pipeline.parsing.parsed import ParsedText, clean_text, clean_title, join_pages
from ingestion_engine.pipeline.parsing.parser_threads import OnStart, run_parse
from ingestion_engine.pipeline.parsing.unpack import gunzip

PARSER_VERSION = "1"
"""Part of every object's fingerprint: a new value makes the next ``sync`` parse everything again. Raise it when any
format's text changes."""

_MAX_NESTING = 2
"""How deep attachments of attachments are read."""


QUICK_BYTES = 16_384
"""Plain text and Markdown up to this are read on the event loop: 0.1 ms of work, where a thread would cost 0.4 more."""

_QUICK = frozenset({Kind.TEXT, Kind.MARKDOWN})


async def parse_object(raw: RawObject, *, limits: FrozenLimits) -> Document:
    """Return the object's whole text with title and pages. Deterministic.

    Whatever may take long, or meet a library that hangs, runs in a thread; the event loop stays free.

    Raises:
        ObjectError: ``empty_document``, ``no_text``, ``binary_content``, ``unsupported_type``, ``type_mismatch``,
        ``encrypted_document``,
            ``corrupt_document``, ``decompressed_too_large``, ``parse_timeout`` or ``parse_failed``.
        TransientError: ``parser_stuck``: too many timed-out parses still run in this process; another process may do
        better.

    Cost: memory of the body, the text (up to four bytes per character) and one copy while it is cleaned.
    """
    with parse_errors():
        quick = _read_quickly(_Source(raw.body, raw.ref.key, raw.content_type, limits, _no_start))
    if quick is not None:
        return _make_document(raw, *quick)
    return await run_parse(lambda on_start: parse_bytes(raw, limits, on_start=on_start), limits.parse_timeout_s)


def _no_start(_cancel: Callable[[], None]) -> None:
    """Nobody waits for the parser's beginning."""


def parse_bytes(raw: RawObject, limits: FrozenLimits, *, on_start: OnStart = _no_start) -> Document:
    """Return the document of an object's bytes; blocking and without a time limit. Raises like ``parse_object``."""
    source = _Source(raw.body, raw.ref.key, raw.content_type, limits, on_start)
    with parse_errors():
        kind, parsed = _read(source)
    return _make_document(raw, kind, parsed)


def _make_document(raw: RawObject, kind: Kind, parsed: ParsedText) -> Document:
    spans: tuple[PageSpan, ...] = ()
    if parsed.pages is not None:
        text, spans = join_pages(parsed.pages)
    else:
        text = clean_text(parsed.text)
    if not text or text.isspace():
        raise no_text(kind)
    return Document(
        ref=raw.ref,
        content_type=kind.value,
        text=text,
        text_format=parsed.text_format,
        title=clean_title(parsed.title) or None,
        pages=spans,
        metadata=raw.metadata,
    )


@contextlib.contextmanager
def parse_errors() -> Iterator[None]:
    """Raise what a reader did not foresee as ``parse_failed``: one object must not stop the others."""
    try:
        yield
    except (IngestionError, MemoryError):
        raise
    except Exception as error:  # parsers meet bytes nobody foresaw; one object must not stop the others
        raise ObjectError("parse_failed", f"The parser failed: {type(error).__name__}: {str(error)[:200]}") from error


def no_text(kind: Kind) -> ObjectError:
    """Return the error for an object that was read and has nothing to embed."""
    return ObjectError(
        "no_text",
        f"It is {kind.value}, but holds no text.",
        hint="Scanned pages need text recognition (OCR) first." if kind is Kind.PDF else "",
        content_type=kind.value,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Bytes to read and what is said about them."""

    body: bytes
    key: str
    declared: str | None
    limits: FrozenLimits
    on_start: OnStart
    nesting: int = 0

    @property
    def named(self) -> Kind | None:
        return detect.named_kind(self.key, self.declared)


def _read(source: _Source) -> tuple[Kind, ParsedText]:
    _refuse_blank(source.body)
    if source.body.startswith(b"\x1f\x8b"):
        source = _unpack_gzip(source)
    found = detect.detect_marked(source.body)
    if found.unsupported is not None:
        raise _refusal(source, found.unsupported)
    if found.kind is not None:
        return found.kind, _read_marked(source, found.kind)
    return _read_text(source)


def _read_quickly(source: _Source) -> tuple[Kind, ParsedText] | None:
    """What ``_read`` makes of a short plain or Markdown text in UTF-8; None for everything else, unread."""
    body = source.body
    if len(body) > QUICK_BYTES or source.named not in _QUICK or not is_utf8(body) or body.isspace() or not body:
        return None
    if detect.detect_marked(body) != detect.Detected():
        return None
    kind, text = _open_text(source)
    return (kind, _read_kind(source, kind, text)) if kind in _QUICK else None


def _refuse_blank(body: bytes) -> None:
    if not body or body.isspace():
        raise blank_body(len(body))


def blank_body(size: int) -> ObjectError:
    """Return the error for an object of so many bytes and nothing but white space in them."""
    return ObjectError("empty_document", f"All its {size} bytes are white space." if size else "It has no bytes.")


def _unpack_gzip(source: _Source) -> _Source:
    body = gunzip(source.body, source.limits.decompressed_max_bytes)
    _refuse_blank(body)
    stem, suffix = posixpath.splitext(source.key)
    declared = source.declared if "gzip" not in (source.declared or "") else None
    return replace(source, body=body, key=stem if suffix.lower() in (".gz", ".gzip") else source.key, declared=declared)


def _refusal(source: _Source, media_type: str) -> ObjectError:
    """Why content of a known but unreadable type is not read."""
    has_suffix = bool(posixpath.splitext(source.key)[1])  # ``photo.png`` declared as text/html is just a photo
    named = detect.named_kind(source.key, None if has_suffix else source.declared)
    if media_type == detect.ENCRYPTED_OOXML:
        return ObjectError(
            "encrypted_document", "The Office document is encrypted with a password.", kind="Office document"
        )
    if media_type == "application/zip" and named in detect.ZIPPED and detect.is_cut_zip(source.body):
        return ObjectError("corrupt_document", f"It is named {named.value} and cut short.", kind=named.value)
    if named is not None:
        return ObjectError(
            "type_mismatch",
            f"Its name or declared type says {named.value}, but it holds {media_type}.",
            named=named.value,
            content_type=media_type,
        )
    return ObjectError("unsupported_type", f"{media_type} is not read.", content_type=media_type)


def _read_marked(source: _Source, kind: Kind) -> ParsedText:
    limit = source.limits.decompressed_max_bytes
    if kind is Kind.PDF:
        from ingestion_engine.pipeline.parsing.formats.pdf_and_excel import read_pdf

        return read_pdf(source.body, source.on_start)
    if kind is Kind.XLSX:
        from ingestion_engine.pipeline.parsing.formats.pdf_and_excel import read_xlsx

        return read_xlsx(source.body, limit, source.on_start)
    if kind is Kind.RTF:
        from ingestion_engine.pipeline.parsing.formats.rtf import read_rtf

        return read_rtf(source.body)
    if kind is Kind.EPUB:
        from ingestion_engine.pipeline.parsing.formats.epub import read_epub

        return read_epub(source.body, limit)
    from ingestion_engine.pipeline.parsing.formats.office import read_docx, read_pptx

    return read_docx(source.body, limit) if kind is Kind.DOCX else read_pptx(source.body, limit)


def _read_text(source: _Source) -> tuple[Kind, ParsedText]:
    kind, text = _open_text(source)
    return kind, _read_kind(source, kind, text)


def _open_text(source: _Source) -> tuple[Kind, str]:
    """The text of bytes that no mark gives away, and which reader it needs."""
    named = source.named
    try:
        text = decode_text(source.body, declared=declared_encoding(source.body, source.declared))
    except NotTextError:
        raise not_text(named) from None
    text = clean_text(text)
    if not text or text.isspace():
        raise blank_text()
    return detect.detect_text(text, named), text


def not_text(named: Kind | None) -> ObjectError:
    """Return the error for bytes that are neither text nor any known format."""
    if named in detect.MARKED:
        return ObjectError(
            "type_mismatch",
            f"Its name or declared type says {named.value}, but its bytes are nothing known.",
            named=named.value,
        )
    return ObjectError("binary_content", "Its bytes are neither text nor any known type.")


def blank_text() -> ObjectError:
    """Return the error for a text that has no visible character."""
    return ObjectError("empty_document", "It holds nothing but white space.")


def declared_encoding(head: bytes, declared: str | None) -> str | None:
    """Return what the document itself, in its first 4 KiB, or the header says of its encoding. Pure."""
    from ingestion_engine.pipeline.parsing.formats.html import find_charset
    from ingestion_engine.pipeline.parsing.formats.xml import find_encoding

    _, _, charset = (declared or "").lower().partition("charset=")
    return find_encoding(head) or find_charset(head) or charset.split(";")[0].strip(" \"'") or None


def _read_kind(source: _Source, kind: Kind, text: str) -> ParsedText:
    if kind is Kind.MARKDOWN:
        return ParsedText(text, TextFormat.MARKDOWN, title=find_markdown_title(text))
    if kind is Kind.HTML:
        from ingestion_engine.pipeline.parsing.formats.html import read_html

        return read_html(text)
    if kind is Kind.CSV:
        from ingestion_engine.pipeline.parsing.formats.tables import read_csv

        return read_csv(text)
    if kind in (Kind.JSON, Kind.JSONL):
        from ingestion_engine.pipeline.parsing.formats.json import read_json, read_jsonl

        return read_json(text) if kind is Kind.JSON else read_jsonl(text)
    if kind is Kind.XML:
        from ingestion_engine.pipeline.parsing.formats.xml import read_xml

        return read_xml(text)
    if kind is Kind.EMAIL:
        from ingestion_engine.pipeline.parsing.formats.email import read_email

        return read_email(source.body, lambda body, name, declared: _read_attachment(source, body, name, declared))
    return ParsedText(text)


def _read_attachment(source: _Source, body: bytes, name: str, declared: str) -> str:
    if source.nesting >= _MAX_NESTING:
        raise ObjectError("nested_too_deeply", "It is attached to an attachment of an attachment.")
    inner = replace(source, body=body, key=name, declared=declared, nesting=source.nesting + 1)
    _, parsed = _read(inner)
    return join_pages(parsed.pages)[0] if parsed.pages is not None else parsed.text


def find_markdown_title(text: str) -> str | None:
    """Return the title of the front matter, else the first heading, in the first 64 Ki characters. Pure."""
    lines = text[:65536].split("\n")
    in_front = lines[0].rstrip() == "---"
    for number, line in enumerate(lines):
        if in_front and number:
            in_front = line.rstrip() not in ("---", "...")
            if line.lower().startswith("title:"):
                return line[len("title:") :].strip().strip("\"'") or None
            continue
        marks = len(line) - len(line.lstrip("#"))
        if 1 <= marks <= 6 and line[marks : marks + 1] == " ":
            return line[marks:].strip().rstrip("#").strip() or None
        if number and line.strip() and set(line.strip()) == {"="} and lines[number - 1].strip():
            return lines[number - 1].strip()
    return None
