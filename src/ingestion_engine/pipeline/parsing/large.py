"""Parse a large object from and to temporary files, if its format can be read in pieces.

The steps, their order, results and errors are those of ``parse``, with at most one piece in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from ingestion_engine.domain.records import Document, ObjectHead, RawObject, TextFormat, join_warnings
from ingestion_engine.domain.spec import FrozenLimits
from ingestion_engine.pipeline.parsing.body import Body
from ingestion_engine.pipeline.parsing.data_urls import drop_from_pieces
from ingestion_engine.pipeline.parsing.decode import Encoding, NotTextError, choose_encoding, decode_pieces
from ingestion_engine.pipeline.parsing.detect import HEAD_CHARS, detect_head, detect_mail, detect_marked, named_kind
from ingestion_engine.pipeline.parsing.formats.xml import HELD_CHARS
from ingestion_engine.pipeline.parsing.kinds import Detected, Kind
from ingestion_engine.pipeline.parsing.parse import (
    blank_body,
    blank_text,
    declared_encoding,
    find_markdown_title,
    no_text,
    not_text,
    ocr_time_s,
    parse_bytes,
    parse_errors,
)
from ingestion_engine.pipeline.parsing.parsed_text import clean_pieces, clean_title
from ingestion_engine.pipeline.parsing.pieces import NeedsWholeTextError, OtherFormatError, take_head
from ingestion_engine.pipeline.parsing.process.pool import run_parse
from ingestion_engine.pipeline.parsing.readings import readings
from ingestion_engine.pipeline.spool import SpooledText

MARK_BYTES = 4096
"""Bytes at the beginning that contain the mark or declaration of every format other than plain text."""

_TIMED_BYTES = 256 * 1024 * 1024
"""Bytes that ``parse_timeout_s`` applies to: the default limit of an object's size."""


@dataclass(frozen=True, slots=True)
class LargeDocument:
    """A document without its text, and the text in a temporary file."""

    document: Document
    text: SpooledText


async def parse_large(body: Body, head: ObjectHead, *, limits: FrozenLimits) -> LargeDocument | None:
    """Return the result of ``parse_object`` for the same bytes; None for formats that need all of them in memory.

    Raises:
        ObjectError: as ``parse_object``; ``parse_timeout`` after ``parse_timeout_s`` per started 256 MiB.
        TransientError: "parser_unavailable", "temp_files_failed".

    Cost: about 1 s per 60 MB of text, 20 MB of CSV or 10 MB of JSON and XML; memory of a few pieces, and of one record:
    a row, an item of JSON, an element of XML with own text.
    """
    return await run_parse(read_large, body, head, timeout_s=_limit_s(body, limits))


async def parse_spooled(body: Body, head: ObjectHead, *, limits: FrozenLimits) -> Document:
    """Return the result of ``parse_object`` for a body in a temporary file, which only the parser process reads whole.

    Raises as ``parse_large``.
    """
    timeout_s = _limit_s(body, limits) + ocr_time_s(body.read(0, MARK_BYTES), limits)
    return await run_parse(partial(read_spooled, limits=limits), body, head, timeout_s=timeout_s)


def read_spooled(body: Body, head: ObjectHead, *, limits: FrozenLimits) -> Document:
    """Return the result of ``parse_spooled``; blocking and without a time limit."""
    whole = body.read(0, body.size)
    return parse_bytes(RawObject(head.ref, whole, content_type=head.content_type, metadata=head.metadata), limits)


def _limit_s(body: Body, limits: FrozenLimits) -> float:
    return limits.parse_timeout_s * max(1, math.ceil(body.size / _TIMED_BYTES))


def read_large(body: Body, head: ObjectHead) -> LargeDocument | None:
    """Return the result of ``parse_large``; blocking and without a time limit."""
    start = body.read(0, MARK_BYTES)
    if not any(piece and not piece.isspace() for piece in body.pieces()):
        raise blank_body(body.size)
    named = named_kind(head.ref.key, head.content_type)
    if detect_marked(start, named) != Detected() or detect_mail(start, named):
        return None
    with parse_errors():
        try:
            return _read_text(body, start, head)
        except NeedsWholeTextError:
            return None


def _read_text(body: Body, start: bytes, head: ObjectHead) -> LargeDocument | None:
    named = named_kind(head.ref.key, head.content_type)
    try:
        encoding = choose_encoding(body, declared=declared_encoding(start, head.content_type))
    except NotTextError as error:
        raise not_text(named, error) from None
    beginning, pieces = take_head(_clean(body, encoding), HEAD_CHARS)
    kind = detect_head(beginning, named, is_whole=len(beginning) < HEAD_CHARS)
    for read_as, render in () if kind is None else readings(kind, held_chars=HELD_CHARS):
        cleaned = _Watched(pieces)
        parsed = render(cleaned)
        visible = _Watched(clean_pieces(parsed))
        try:
            text = SpooledText(visible)
        except OtherFormatError:
            pieces = _clean(body, encoding)
            continue
        if not cleaned.has_text:
            raise blank_text()
        if not visible.has_text:
            raise no_text(read_as)
        is_markdown = read_as is Kind.MARKDOWN
        document = Document(
            ref=head.ref,
            content_type=read_as.value,
            text="",
            text_format=TextFormat.MARKDOWN if is_markdown else TextFormat.PLAIN,
            title=clean_title(find_markdown_title(beginning) if is_markdown else parsed.title) or None,
            metadata=head.metadata,
            warnings=join_warnings((*encoding.warnings, *parsed.warnings)),
        )
        return LargeDocument(document, text)
    return None


def _clean(body: Body, encoding: Encoding) -> Iterator[str]:
    return drop_from_pieces(clean_pieces(decode_pieces(body, encoding)))


class _Watched:
    """A text in pieces that records whether it contains anything but white space."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self.has_text = False
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self.has_text = self.has_text or bool(piece and not piece.isspace())
            yield piece
