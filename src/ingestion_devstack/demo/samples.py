"""Puts the corpus of the demo into a bucket: for the demo, and for the first steps of who starts the stack."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

from ingestion_devstack.demo.corpus import BROKEN, make_corpus
from ingestion_devstack.stack.stack import Stack
from ingestion_engine.adapters.s3.client import Place, make_client, s3_errors
from ingestion_engine.runtime.settings import S3Settings

BUCKET: Final = "docs"
PREFIX: Final = "demo/"


def upload_corpus(corpus: Mapping[str, bytes], settings: S3Settings) -> None:
    """Write every document under ``BUCKET`` and ``PREFIX``. Raises IngestionError."""
    with contextlib.closing(make_client(settings)) as client:
        for key, body in corpus.items():
            with s3_errors(Place(BUCKET, PREFIX + key)):
                client.put_object(Bucket=BUCKET, Key=PREFIX + key, Body=body)


def offer_samples(stack: Stack) -> str | None:
    """Put the corpus into the stack's own bucket when that is empty; return a sentence, None when nothing was put.

    Raises:
        IngestionError: the bucket cannot be read or written.
    """
    if "s3" not in stack.services:
        return None  # the user's own storage
    with contextlib.closing(make_client(stack.settings.s3)) as client, s3_errors(Place(BUCKET)):
        if client.list_objects_v2(Bucket=BUCKET, MaxKeys=1).get("Contents"):
            return None
    corpus = make_corpus()
    upload_corpus(corpus, stack.settings.s3)
    numbers = f"{len(corpus)} objects, {len(BROKEN)} of them broken on purpose"
    return f"Documents to try it with: s3://{BUCKET}/{PREFIX}, {numbers}."
