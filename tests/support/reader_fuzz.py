"""Mutated files through the readers: which there are, and what must hold for each. Runs in a parser process."""

from __future__ import annotations

import functools
import gzip
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.legible import make_legible
from ingestion_engine.domain.records import DETAIL_CHARS, Document, ObjectHead, ObjectRef, RawObject
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunking.chunk import chunk_document
from ingestion_engine.pipeline.parsing.body import WholeBody
from ingestion_engine.pipeline.parsing.large import read_large
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from ingestion_engine.pipeline.parsing.parsed_text import TITLE_CHARS
from ingestion_engine.pipeline.parsing.pieces import MOST_GROWTH
from support.corpus import formats, pdf
from support.mutations import TOKENS, Mutator
from support.reading_cases import CASES

SUFFIXES: Final = {
    "text": ".txt", "markdown": ".md", "html": ".html", "csv": ".csv", "json": ".json", "jsonl": ".jsonl",
    "notebook": ".ipynb", "xml": ".xml", "email": ".eml", "rtf": ".rtf", "pdf": ".pdf", "docx": ".docx",
    "pptx": ".pptx", "xlsx": ".xlsx", "epub": ".epub", "gzip": ".gz",
}  # fmt: skip
"""The targets, with the ends of their files' names."""

CODES: Final = frozenset({
    "empty_document", "no_text", "binary_content", "unsupported_type", "type_mismatch", "encrypted_document",
    "corrupt_document", "decompressed_too_large", "encoding_unknown",
})  # fmt: skip
"""Codes with which a reader may refuse an object. Not among them is "parse_failed": an error that nobody expects."""

LIMITS: Final = FrozenLimits(decompressed_max_bytes=8 * 1024 * 1024)
MOST_MEMORY: Final = 384 * 1024 * 1024
"""Bytes by which the largest memory of a process may grow: a small multiple of what may be unpacked."""
_MOST_CHUNKED: Final = 300_000
"""Length of the longest text that is chunked too."""
_SEED_BYTES: Final = 40_000
"""Size of the largest valid file that is mutated; more is not other damage, only slower."""

_SECTIONS = [
    ("First heading", ["A paragraph with words, and more words in it.", "Übung macht den Meister — 字 и слова."]),
    ("Second heading", ["Another one & a <third>.", "The last words."]),
]
_ROWS = [["name", "city", "year"], ["Ada", "London; UK", "1815"], ['Bob "B"', "Köln", "2020"], ["Eve", "", "1.5"]]


@functools.cache
def find_seeds(target: str) -> tuple[bytes, ...]:
    """Return the valid files of a target: those of the reading cases, and some of our own."""
    suffix = SUFFIXES[target]
    found = [case.body for case in CASES if case.key.endswith(suffix) and len(case.body) <= _SEED_BYTES]
    own = {
        "text": lambda: [formats.build_markdown("Title", _SECTIONS), "Grüße aus Köln.\r\n".encode("cp1252") * 9],
        "markdown": lambda: [formats.build_markdown("Title", _SECTIONS)],
        "html": lambda: [formats.build_html("Title", _SECTIONS)],
        "csv": lambda: [formats.build_csv(_ROWS), formats.build_csv(_ROWS, delimiter=";")],
        "json": lambda: [b'{"title": "T", "rows": [{"a": 1.50, "b": [1, "x\\u00e9", null]}, {"c": {"d": true}}]}'],
        "jsonl": lambda: [b'{"a": "first", "n": 1}\n{"a": "second", "t": [1, {"b": "c"}]}\n\n{"a": "third"}\n'],
        "notebook": list,
        "xml": lambda: [formats.build_xml("Title", _SECTIONS)],
        "email": lambda: [
            formats.build_eml("Subject", ["Hello.", "Über words."], attachment=b"a,b\n1,2\n"),
            formats.build_eml("Subject", ["Hello.", "Words."], html_only=True),
        ],
        "rtf": lambda: [formats.build_rtf("Title", _SECTIONS)],
        "pdf": lambda: [pdf.build_pdf("Title", [["A page of words.", "More words."], ["Second page."]])],
        "docx": lambda: [formats.build_docx("Title", _SECTIONS)],
        "pptx": lambda: [formats.build_pptx("Title", _SECTIONS)],
        "xlsx": lambda: [formats.build_xlsx("Title", [("Sheet", _ROWS), ("Other", [["x", 1.5, None]])])],
        "epub": lambda: [formats.build_epub("Title", _SECTIONS)],
        "gzip": lambda: [
            gzip.compress(seed, mtime=0) for other in ("csv", "jsonl", "xml") for seed in find_seeds(other)
        ],
    }[target]()
    return (*found, *own)


def make_case(target: str, number: int, base: str = "") -> RawObject:
    """Return mutated object ``number`` of a target. Pure."""
    body = Mutator(TOKENS[target], find_seeds(target)).make(number, f"{base}{target}")
    ends = ("", ".gz", ".txt", ".json", ".pdf", ".bin")
    key = f"folder/name{SUFFIXES[target] if number % 5 else ends[number // 5 % len(ends)]}"
    ref = ObjectRef("docs", key, "etag", size_bytes=len(body), last_modified="2024-01-02T03:04:06Z")
    return RawObject(ref, body, content_type=None, metadata={})


def run_cases(target: str, first: int, count: int, base: str, marker: str) -> list[str]:
    """Read the cases from ``first`` on; return what is wrong, in words.

    Args:
        target: One of ``SUFFIXES``.
        first: Number of the first case.
        count: Number of cases.
        base: Beginning of the sequence of cases.
        marker: File that always holds the number of the current case, for one that never ends or ends the process.
    """
    faults = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, first + count):
        Path(marker).write_text(str(number))
        raw = make_case(target, number, base)
        try:
            found = _check(raw, number)
        except Exception as error:  # every class but those that ``_check`` expects
            found = [f"raised {type(error).__name__}: {error}"]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > MOST_MEMORY:
            found.append(f"took {grown // 2**20} MiB for {len(raw.body)} bytes")
            before += grown // 1024
        faults += [f"case {target}/{number}{f' of {base!r}' if base else ''} {fault}" for fault in found]
    return faults


def _check(raw: RawObject, number: int) -> list[str]:
    outcome = _read(raw)
    faults = _check_document(raw, outcome) if isinstance(outcome, Document) else []
    if isinstance(outcome, ObjectError):
        if outcome.code not in CODES:
            faults.append(f"fails with {outcome.code!r}: {outcome.message}")
        if not outcome.message.endswith("."):
            faults.append(f"fails with no sentence: {outcome.message!r}")
    if number % 4 == 0 and _describe(_read(raw)) != _describe(outcome):
        faults.append("is read otherwise the second time")
    if number % 4 == 1 and (pieced := _read_in_pieces(raw, number)) not in (None, _describe(outcome)):
        faults.append(f"is read otherwise in pieces: {pieced}")
    return faults


def _read(raw: RawObject) -> Document | ObjectError:
    try:
        return parse_bytes(raw, LIMITS)
    except ObjectError as error:
        return error


@dataclass(frozen=True, slots=True)
class _BodyInPieces(WholeBody):
    """A body whose pieces end inside of characters, lines and tokens."""

    length: int

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        for at in range(start, self.size, self.length):
            yield self.read(at, self.length)


def _read_in_pieces(raw: RawObject, number: int) -> object:
    """Return ``_describe`` of the object as one that goes through temporary files; None for formats that cannot."""
    body = _BodyInPieces(raw.body, (37, 211, 4096)[number % 3])
    try:
        large = read_large(body, ObjectHead(raw.ref, raw.content_type, raw.metadata))
    except ObjectError as error:
        return _describe(error)
    return None if large is None else replace(large.document, text="".join(large.text.pieces()))


def _describe(outcome: Document | ObjectError) -> object:
    return outcome if isinstance(outcome, Document) else (outcome.code, outcome.message)


def _check_document(raw: RawObject, document: Document) -> list[str]:
    faults = []
    text = document.text
    if not text or text.isspace():
        faults.append("is a document without text")
    if len(text) > MOST_GROWTH * LIMITS.decompressed_max_bytes:
        faults.append(f"has {len(text)} characters of text")
    text.encode()  # raises for lone surrogates
    (document.title or "").encode()
    if len(document.title or "") > TITLE_CHARS:
        faults.append("has an endless title")
    spans = [(span.start_char, span.end_char) for span in document.pages]
    if spans != sorted(spans) or any(not 0 <= start < end <= len(text) for start, end in spans):
        faults.append(f"has pages that are not in its text: {spans[:5]}")
    documented = _documented_warnings()
    for warning in document.warnings:
        if warning.code not in documented:
            faults.append(f"has the warning {warning.code!r}, which docs/formats.md does not list")
        if (
            warning.count < 1
            or make_legible(warning.detail, DETAIL_CHARS) != warning.detail
            or not warning.code.islower()
        ):
            faults.append(f"has the warning {warning}")
    if len({warning.code for warning in document.warnings}) < len(document.warnings):
        faults.append("has two warnings of one code")
    if len(text) <= _MOST_CHUNKED:
        chunks = list(chunk_document(document, Chunking()))
        if not chunks or any(text[chunk.start_char : chunk.end_char] != chunk.text for chunk in chunks):
            faults.append("is cut wrong")
    return faults


@functools.cache
def _documented_warnings() -> frozenset[str]:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
