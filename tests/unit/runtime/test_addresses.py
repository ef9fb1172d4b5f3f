"""Addresses of internal systems are hidden in what callers read, and what remains is a sentence."""

from __future__ import annotations

import time

import pytest

from ingestion_engine.runtime.addresses import context_for_caller, hide_addresses


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Qdrant at http://qdrant.internal:6333 refuses connections.", "Qdrant refuses connections."),
        ("Ollama at http://user:secret@10.0.0.5:11434/ responded 500: EOF", "Ollama responded 500: EOF"),
        (
            "The state store 's3://ingest-state/prod' refuses the credentials.",
            "The state store refuses the credentials.",
        ),
        ("memory://state/alias/docs.json does not exist.", "(address not shown) does not exist."),
        (
            "The database of jobs at db-1.internal:5432,db-2.internal:5432 is unavailable: the host is down.",
            "The database of jobs is unavailable: the host is down.",
        ),
        (
            "The database of jobs in '/data/jobs.db' is unavailable: it is locked.",
            "The database of jobs is unavailable: it is locked.",
        ),
        (
            "Weaviate at http://weaviate:8080 cannot be found: the host name 'weaviate' does not resolve.",
            "Weaviate cannot be found: the host name does not resolve.",
        ),
        ("Connect call failed ('10.1.2.3', 6333)", "Connect call failed (address not shown)"),
        ("Cannot connect to host qdrant:6333 ssl:default", "Cannot connect to host ssl:default"),
        ("S3 at https://minio:9000 has no bucket 'docs'.", "S3 has no bucket 'docs'."),
        (
            "Model 'all-minilm:22' at http://o:11434 returned 3 dimensions.",
            "Model 'all-minilm:22' returned 3 dimensions.",
        ),
        ("Object 'a/b:8080.txt' has no text.", "Object 'a/b:8080.txt' has no text."),
        ("Collection 'docs' does not exist.", "Collection 'docs' does not exist."),
        ("Wait until 12:30, version 1.2.3 is ready.", "Wait until 12:30, version 1.2.3 is ready."),
    ],
)
def test_a_message_without_addresses_is_a_sentence(message: str, shown: str) -> None:
    assert hide_addresses(message) == shown
    assert hide_addresses(shown) == shown


def test_addresses_in_the_context_of_an_error_are_left_out() -> None:
    context = {"url": "http://qdrant:6333", "collection": "docs", "reason": "Qdrant at http://qdrant:6333 is full."}
    assert context_for_caller(context) == {"collection": "docs", "reason": "Qdrant is full."}


def test_hiding_takes_linear_time() -> None:
    """Also for texts that nearly match."""
    for text in (
        "a" * 200_000,
        "a." * 100_000,
        "1." * 100_000,
        " at a:" * 40_000,
        "http://" * 30_000,
        "[" + ":" * 100_000,
    ):
        began = time.process_time()
        hide_addresses(text)
        assert time.process_time() - began < 2
