"""Estimates of the work that planned items are, for packing and progress. Pure."""

from __future__ import annotations

import math

from ingestion_engine.domain.records import COMPARISONS, REMOVALS, ObjectRef, PlanItem, StraySearch
from ingestion_engine.domain.spec import Chunking

_TEXT_SHARE = {
    "pdf": 0.1,
    "docx": 0.2,
    "pptx": 0.03,
    "xlsx": 0.5,
    "epub": 0.6,
    "html": 0.5,
    "htm": 0.5,
    "eml": 0.7,
    "rtf": 0.4,
    "gz": 4.0,
    "xml": 0.8,
}
"""Characters of text per byte of file, by file name extension (a guess; only packing and progress depend on it)."""

BYTES_PER_UNIT = 1024 * 1024
"""Bytes whose reading and parsing take about as long as embedding one chunk (a guess)."""
REMOVAL_UNITS = 0.05
"""Work of removing an object's points, compared with embedding one chunk (a guess)."""


def estimate_chunks(ref: ObjectRef, chunking: Chunking) -> int:
    """Return the estimated number of an object's chunks, from its name and size; at least 1. Pure."""
    share = 1.0
    for extension in ref.key.lower().rsplit("/", 1)[-1].split(".")[1:]:
        share *= _TEXT_SHARE.get(extension, 1.0)
    step = chunking.max_chars - chunking.overlap_chars
    return max(1, math.ceil(ref.size_bytes * share / step))


def weigh(planned: PlanItem, chunking: Chunking) -> tuple[int, int]:
    """Return the bytes to read from the bucket and the number of chunks to expect. Pure."""
    if isinstance(planned, StraySearch) or planned.action in REMOVALS:
        return 0, 1
    if planned.action in COMPARISONS:
        return 0, max(1, planned.prior_chunks)
    return planned.ref.size_bytes, estimate_chunks(planned.ref, chunking)


def measure_work(planned: PlanItem, chunking: Chunking) -> float:
    """Return the work of an item, in chunks to embed; only ratios within one plan matter. Pure."""
    if not isinstance(planned, StraySearch) and planned.action in REMOVALS:
        return REMOVAL_UNITS
    size_bytes, chunks = weigh(planned, chunking)
    return chunks + size_bytes / BYTES_PER_UNIT
