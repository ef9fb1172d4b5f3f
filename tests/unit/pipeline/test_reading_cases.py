"""Every case is read right, also as an object that is too large to be read in one piece."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.records import Document, ObjectHead, ObjectRef, RawObject
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunking.chunk import chunk_document
from ingestion_engine.pipeline.parsing.body import WholeBody
from ingestion_engine.pipeline.parsing.large import read_large
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.reading_cases import CASES
from support.reading_cases.case import ReadingCase

LIMITS = FrozenLimits()


def ref_of(case: ReadingCase) -> ObjectRef:
    return ObjectRef("docs", case.key, "etag", len(case.body), "2024-01-02T03:04:06Z")


def read(case: ReadingCase) -> Document:
    return parse_bytes(RawObject(ref_of(case), case.body, None, {}), LIMITS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_the_text_is_right(case: ReadingCase) -> None:
    document = read(case)
    assert case.faults(document.text) == []
    assert case.content_type in (None, document.content_type)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_in_pieces_the_text_is_the_same(case: ReadingCase) -> None:
    """Formats that are not read in pieces, and packed objects, are left to the other reader."""
    large = read_large(WholeBody(case.body), ObjectHead(ref_of(case), None, {}))
    if large is not None:
        whole = read(case)
        assert "".join(large.text.pieces()) == whole.text
        assert (large.document.content_type, large.document.title) == (whole.content_type, whole.title)
        assert large.document.warnings == whole.warnings


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_chunks_slice_back_and_leave_nothing_out(case: ReadingCase) -> None:
    document = read(case)
    covered = 0
    for chunk in chunk_document(document, Chunking()):
        assert document.text[chunk.start_char : chunk.end_char] == chunk.text
        assert not document.text[covered : chunk.start_char].strip()
        covered = max(covered, chunk.end_char)
    assert not document.text[covered:].strip()
