"""RawObject → Document: detect the type of the bytes and extract their whole text, or report why there is none.

Content determines the type before the name does: a ``.pdf`` that is a readable HTML page is read as HTML. A name that
contradicts unreadable content is a ``type_mismatch``.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from ingestion_engine.domain.errors import IngestionError, ObjectError
from ingestion_engine.domain.records import Document, PageSpan, RawObject, ReadWarning, TextFormat, join_warnings
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing import archives, detect, kinds
from ingestion_engine.pipeline.parsing.data_urls import drop_data_urls
from ingestion_engine.pipeline.parsing.decode import EncodingUnknownError, NotTextError, decode_and_warn, is_utf8
from ingestion_engine.pipeline.parsing.kinds import Kind
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText, clean_text, clean_title, join_pages
from ingestion_engine.pipeline.parsing.process.pool import run_parse
from ingestion_engine.pipeline.parsing.readings import read_whole
from ingestion_engine.pipeline.parsing.unpack import gunzip

PARSER_VERSION = "2"
"""Part of every object's fingerprint: a new value makes the next ``sync`` parse every object again. Increase it when
the text of any format changes."""


def parser_version(limits: FrozenLimits) -> str:
    """Return ``PARSER_VERSION``, and what else determines the text of an object: recognition of scanned pages. Pure."""
    if limits.ocr_languages is None:
        return PARSER_VERSION
    return f"{PARSER_VERSION}+ocr:{limits.ocr_languages}:{limits.ocr_max_pages}"


_MAX_NESTING = 2
"""Maximum depth of attachments inside attachments."""

QUICK_BYTES = 16_384
"""Plain text and Markdown up to this size are read on the event loop: 0.1 ms of work; a parser process adds 0.6 ms."""

_QUICK = frozenset({Kind.TEXT, Kind.SOURCE, Kind.MARKDOWN})


async def parse_object(raw: RawObject, *, limits: FrozenLimits) -> Document:
    """Return the object's whole text with title and pages. Deterministic.

    Work that may take long, or call a library that hangs or crashes, runs in a parser process.

    Raises:
        ObjectError: ``empty_document``, ``no_text``, ``binary_content``, ``encoding_unknown``, ``unsupported_type``,
            ``type_mismatch``, ``encrypted_document``, ``corrupt_document``, ``decompressed_too_large``,
            ``parse_timeout``, ``parse_failed`` or ``parser_died``.
        TransientError: ``parser_unavailable``: no parser process can be started.

    Cost: memory of the body, the text (up to four bytes per character) and one copy during cleaning.
    """
    with parse_errors():
        quick = _read_quickly(_open_source(raw, limits))
    if quick is not None:
        return _make_document(raw, *quick, recognizes=False)
    timeout_s = limits.parse_timeout_s + ocr_time_s(raw.body, limits)
    return await run_parse(parse_bytes, raw, limits, timeout_s=timeout_s)


def ocr_time_s(start: bytes, limits: FrozenLimits) -> float:
    """Return the seconds that a document beginning with these bytes may take for recognition of its pages. Pure."""
    may_recognize = limits.ocr_languages is not None and b"%PDF-" in start[:1024]
    return limits.ocr_timeout_s if may_recognize else 0.0


def parse_bytes(raw: RawObject, limits: FrozenLimits) -> Document:
    """Return the document of an object's bytes; blocking and without a time limit. Raises as ``parse_object``."""
    source = _open_source(raw, limits)
    with parse_errors():
        kind, parsed = _read(source)
    return _make_document(raw, kind, parsed, recognizes=limits.ocr_languages is not None)


def _make_document(raw: RawObject, kind: Kind, parsed: ParsedText, *, recognizes: bool) -> Document:
    spans: tuple[PageSpan, ...] = ()
    if parsed.pages is not None:
        text, spans = join_pages(parsed.pages, after=parsed.text)
    else:
        text = clean_text(parsed.text)
    if not text or text.isspace():
        raise no_text(kind, recognizes=recognizes)
    return Document(
        ref=raw.ref,
        content_type=kind.value,
        text=text,
        text_format=parsed.text_format,
        title=clean_title(parsed.title) or None,
        pages=spans,
        metadata=raw.metadata,
        warnings=join_warnings(parsed.warnings),
    )


@contextlib.contextmanager
def parse_errors() -> Iterator[None]:
    """Raise unexpected errors of a reader as ``parse_failed``, so that one object does not stop the others."""
    try:
        yield
    except (IngestionError, MemoryError):
        raise
    except Exception as error:  # parsers receive arbitrary bytes
        raise ObjectError("parse_failed", f"The parser failed: {type(error).__name__}: {str(error)[:200]}") from error


def no_text(kind: Kind, *, recognizes: bool = False) -> ObjectError:
    """Return the error for a readable object without text; ``recognizes``: scanned pages were recognised."""
    return ObjectError(
        "no_text",
        f"The object is {kind.value} but has no text.",
        hint="Set INGEST_OCR__ENABLED and install Tesseract on the workers if its pages are scanned."
        if kind is Kind.PDF and not recognizes
        else "",
        content_type=kind.value,
    )


@dataclass(frozen=True, slots=True)
class _Source:
    """Bytes to read, with their name and declared type."""

    body: bytes
    key: str
    declared: str | None
    limits: FrozenLimits
    nesting: int = 0

    @property
    def named(self) -> Kind | None:
        return detect.named_kind(self.key, self.declared)


def _open_source(raw: RawObject, limits: FrozenLimits) -> _Source:
    return _Source(body=raw.body, key=raw.ref.key, declared=raw.content_type, limits=limits)


def _read(source: _Source) -> tuple[Kind, ParsedText]:
    _refuse_blank(source.body)
    if source.body.startswith(b"\x1f\x8b"):
        source = _unpack_gzip(source)
    found = detect.detect_marked(source.body, source.named)
    if found.unsupported is not None:
        raise _refusal(source, found.unsupported)
    if found.kind is not None:
        return found.kind, _read_marked(source, found.kind)
    return _read_text(source)


def _read_quickly(source: _Source) -> tuple[Kind, ParsedText] | None:
    """Return the result of ``_read`` for a short plain or Markdown text in UTF-8; None, without reading, for others."""
    body = source.body
    if len(body) > QUICK_BYTES or source.named not in _QUICK or not is_utf8(body) or body.isspace() or not body:
        return None
    if detect.detect_marked(body, source.named) != kinds.Detected():
        return None
    kind, text, _ = _open_text(source)
    return _read_kind(source, kind, text) if kind in _QUICK else None


def _refuse_blank(body: bytes) -> None:
    if not body or body.isspace():
        raise blank_body(len(body))


def blank_body(size: int) -> ObjectError:
    """Return the error for an object of ``size`` bytes that contains only white space."""
    message = f"All {size} bytes of the object are white space." if size else "The object has no bytes."
    return ObjectError("empty_document", message)


def _unpack_gzip(source: _Source) -> _Source:
    body = gunzip(source.body, source.limits.decompressed_max_bytes)
    _refuse_blank(body)
    stem, suffix = posixpath.splitext(source.key)
    declared = source.declared if "gzip" not in (source.declared or "") else None
    return replace(source, body=body, key=stem if suffix.lower() in (".gz", ".gzip") else source.key, declared=declared)


def _refusal(source: _Source, media_type: str) -> ObjectError:
    """Return the error for content of a known type without a reader."""
    has_suffix = bool(posixpath.splitext(source.key)[1])  # ``photo.png`` declared as text/html is a photo
    named = detect.named_kind(source.key, None if has_suffix else source.declared)
    if media_type == archives.ENCRYPTED_OOXML:
        return ObjectError(
            "encrypted_document", "The Office document is encrypted with a password.", kind="Office document"
        )
    if media_type == "application/zip" and named in kinds.ZIPPED and archives.is_cut_zip(source.body):
        return ObjectError("corrupt_document", f"The object is named {named.value} and is cut short.", kind=named.value)
    if named is not None:
        return ObjectError(
            "type_mismatch",
            f"The object's name or declared type is {named.value}, but its content is {media_type}.",
            hint=archives.HINTS.get(media_type, ""),
            named=named.value,
            content_type=media_type,
        )
    return ObjectError(
        "unsupported_type",
        f"Objects of type {media_type} are not supported.",
        hint=archives.HINTS.get(media_type, ""),
        content_type=media_type,
    )


def _read_marked(source: _Source, kind: Kind) -> ParsedText:
    limit = source.limits.decompressed_max_bytes
    if kind is Kind.PDF:
        from ingestion_engine.pipeline.parsing.formats.pdf.ocr import Ocr
        from ingestion_engine.pipeline.parsing.formats.pdf.reader import read_pdf

        limits = source.limits
        ocr = Ocr(limits.ocr_languages, limits.ocr_max_pages) if limits.ocr_languages else None
        return read_pdf(source.body, partial(_read_inner, source), ocr=ocr)
    if kind is Kind.XLSX:
        from ingestion_engine.pipeline.parsing.formats.office.excel.workbook import read_xlsx

        return read_xlsx(source.body, limit)
    if kind is Kind.RTF:
        from ingestion_engine.pipeline.parsing.formats.rtf import read_rtf

        return read_rtf(source.body, partial(_read_inner, source))
    if kind is Kind.EPUB:
        from ingestion_engine.pipeline.parsing.formats.epub import read_epub

        return read_epub(source.body, limit)
    if kind is Kind.DOCX:
        from ingestion_engine.pipeline.parsing.formats.office.word import read_docx

        return read_docx(source.body, limit, partial(_read_inner, source))
    from ingestion_engine.pipeline.parsing.formats.office.powerpoint import read_pptx

    return read_pptx(source.body, limit, partial(_read_inner, source))


def _read_text(source: _Source) -> tuple[Kind, ParsedText]:
    kind, text, warnings = _open_text(source)
    read_as, parsed = _read_kind(source, kind, text)
    return read_as, replace(parsed, warnings=(*warnings, *parsed.warnings)) if warnings else parsed


def _open_text(source: _Source) -> tuple[Kind, str, tuple[ReadWarning, ...]]:
    """Return kind, text and what is missing from it of bytes without a format's mark.

    The text of a mail is empty, because its parts differ in encoding.
    """
    named = source.named
    if detect.detect_mail(source.body, named):
        return Kind.EMAIL, "", ()
    try:
        text, warnings = decode_and_warn(source.body, declared=declared_encoding(source.body, source.declared))
    except NotTextError as error:
        raise not_text(named, error) from None
    text = drop_data_urls(clean_text(text))
    if not text or text.isspace():
        raise blank_text()
    return detect.detect_text(text, named), text, warnings


def not_text(named: Kind | None, reason: NotTextError) -> ObjectError:
    """Return the error for bytes that are neither text nor any known format, or text in no known encoding."""
    if named in kinds.MARKED:
        return ObjectError(
            "type_mismatch",
            f"The object's name or declared type is {named.value}, but its content is of no known type.",
            named=named.value,
        )
    if isinstance(reason, EncodingUnknownError):
        return ObjectError(
            "encoding_unknown",
            "The encoding of the text is not declared, and none of the known ones makes words of it.",
            hint="Convert the object to UTF-8, or declare `charset=` in its Content-Type.",
        )
    return ObjectError("binary_content", "The object is neither text nor of any known type.")


def blank_text() -> ObjectError:
    """Return the error for a text that has no visible character."""
    return ObjectError("empty_document", "The object contains only white space.")


def declared_encoding(head: bytes, declared: str | None) -> str | None:
    """Return the encoding that the document declares in its first 4 KiB, or else the header. Pure."""
    from ingestion_engine.pipeline.parsing.formats.html import find_charset
    from ingestion_engine.pipeline.parsing.formats.xml import find_encoding

    _, _, charset = (declared or "").lower().partition("charset=")
    return find_encoding(head) or find_charset(head) or charset.split(";")[0].strip(" \"'") or None


def _read_kind(source: _Source, kind: Kind, text: str) -> tuple[Kind, ParsedText]:
    if kind is Kind.MARKDOWN:
        return kind, ParsedText(text, TextFormat.MARKDOWN, title=find_markdown_title(text))
    if kind is Kind.HTML:
        from ingestion_engine.pipeline.parsing.formats.html import read_html

        return kind, read_html(text)
    if kind is Kind.NOTEBOOK:
        from ingestion_engine.pipeline.parsing.formats.notebook import read_notebook

        return kind, read_notebook(text)
    if kind is Kind.EMAIL:
        from ingestion_engine.pipeline.parsing.formats.mail.mail import read_email

        return kind, read_email(source.body, partial(_read_inner, source))
    return read_whole(kind, text)


def _read_inner(source: _Source, body: bytes, name: str, declared: str) -> ParsedText:
    """Return the text of a file inside this one: an attachment, an embedded part."""
    if source.nesting >= _MAX_NESTING:
        raise ObjectError("nested_too_deeply", "The attachment is nested more than two levels deep.")
    return _read(replace(source, body=body, key=name, declared=declared, nesting=source.nesting + 1))[1]


def find_markdown_title(text: str) -> str | None:
    """Return the title of the front matter, or else the first heading, within the first 64 Ki characters. Pure."""
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
