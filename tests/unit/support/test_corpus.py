"""The corpus is what it says: repeatable, varied, and every object ends as expected."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ObjectRef, RawObject
from ingestion_engine.domain.spec import Chunking, FrozenLimits
from ingestion_engine.pipeline.chunking.chunk import chunk_document
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from support.corpus.broken import BROKEN
from support.corpus.corpus import MIB, CorpusObject, generate_corpus
from support.corpus.keys import AWKWARD_KEYS, seaweedfs_stores
from support.corpus.text import FOREIGN, write_big_text

SMALL = {"objects": 300, "seed": 11, "broken": 0.1, "big_text_bytes": MIB, "bomb_bytes": 8 * MIB}
LIMITS = FrozenLimits(decompressed_max_bytes=4 * MIB)


@pytest.fixture(scope="module")
def corpus() -> list[CorpusObject]:
    return list(generate_corpus(**SMALL))


def outcome(found: CorpusObject) -> tuple[str, str | None, int]:
    """What parsing and chunking make of an object: expectation, code, chunks."""
    if not found.body and found.key.endswith("/"):
        return "skipped", None, 0
    ref = ObjectRef("docs", found.key, "etag", len(found.body), "2024-01-02T03:04:06Z")
    try:
        document = parse_bytes(RawObject(ref, found.body, found.content_type, found.metadata), LIMITS)
    except ObjectError as error:
        return "failed", error.code, 0
    return "done", None, sum(1 for _ in chunk_document(document, Chunking()))


def test_every_object_ends_as_expected(corpus: list[CorpusObject]) -> None:
    """Done, failed with its code, or skipped; and about three chunks each."""
    outcomes = {found.key: outcome(found) for found in corpus}
    assert {f.key: (f.expected, f.expected_code) for f in corpus} == {key: value[:2] for key, value in outcomes.items()}
    sizes = [value[2] for found in corpus if found.expected == "done" and not found.key.startswith("big/")
             for value in [outcomes[found.key]]]  # fmt: skip
    assert 2 <= sum(sizes) / len(sizes) <= 4


def test_the_corpus_is_as_large_and_as_broken_as_asked(corpus: list[CorpusObject]) -> None:
    """All keys differ; broken objects come in all ways, with more than eight codes."""
    assert len(corpus) == len({found.key for found in corpus}) == 300
    failed = Counter(found.expected_code for found in corpus if found.expected == "failed")
    assert failed.total() == 30
    assert set(failed) == {way.code for way in BROKEN}
    assert len(failed) >= 8
    assert any(found.expected == "skipped" for found in corpus)


def test_the_seed_decides_every_byte(corpus: list[CorpusObject]) -> None:
    """The same seed gives the same objects, another seed others."""
    assert list(generate_corpus(**SMALL)) == corpus
    other = list(generate_corpus(**{**SMALL, "seed": 12}))
    assert [found.body for found in other] != [found.body for found in corpus]


def test_awkward_keys_cover_what_programs_get_wrong() -> None:
    """Pairs that differ only in case, white space at the end or normal form, and segments that paths swallow."""
    keys = set(AWKWARD_KEYS)
    assert len(keys) == len(AWKWARD_KEYS)
    assert {key.rstrip() for key in keys if key != key.rstrip()} & keys
    assert len({key.lower() for key in keys}) == len(keys) - 2
    assert len({unicodedata.normalize("NFC", key) for key in keys}) == len(keys) - 1
    for part in ("//", "/./", "/../", "%", "+", " ", "?", "#", "\\", "\n"):
        assert any(part in key for key in keys)
    assert any(key.endswith("/") for key in keys)
    assert all(len(key.encode()) <= 1024 for key in keys)


def test_keys_can_be_limited_to_what_the_embedded_server_holds() -> None:
    """The count stays; what it would rewrite or refuse is gone."""
    found = list(generate_corpus(**SMALL, only_seaweedfs=True))
    assert len(found) == 300
    assert all(seaweedfs_stores(one.key, len(one.body)) for one in found)
    assert sum(not seaweedfs_stores(key, 1) for key in AWKWARD_KEYS) == 8


def test_texts_in_other_encodings_are_read_right() -> None:
    """What the corpus writes in an old encoding is read as it was meant."""
    for encoding, pattern in FOREIGN.items():
        text = "\n".join(pattern.format(number) for number in range(5))
        ref = ObjectRef("docs", "a.txt", "etag", 1, "2024-01-02T03:04:06Z")
        assert parse_bytes(RawObject(ref, text.encode(encoding), None, {}), LIMITS).text == text


def test_the_big_text_has_no_sentence_twice() -> None:
    """It has exactly the size asked for."""
    body = write_big_text(MIB, seed=3)
    sentences = body.decode().split(" shows.")[:-1]
    assert len(body) == MIB
    assert len(set(sentences)) == len(sentences) > 5000
