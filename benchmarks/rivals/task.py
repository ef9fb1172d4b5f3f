"""Input of every rival, as JSON in its first argument, and object reads for frameworks without S3."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

CHUNK_CHARS = 1000
BATCH_TEXTS = 8
"""As this product by default."""


def read_task() -> dict[str, Any]:
    """Return ``s3`` (endpoint, key, secret, bucket, prefix), ``ollama``, ``qdrant``, ``model``, ``dimension`` and
    ``collection``.
    """
    task: dict[str, Any] = json.loads(sys.argv[1])
    return task


def read_objects(s3: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield keys and bodies with boto3, one after another."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3["endpoint"],
        aws_access_key_id=s3["key"],
        aws_secret_access_key=s3["secret"],
        region_name="us-east-1",
    )
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=s3["bucket"], Prefix=s3["prefix"]):
        for entry in page.get("Contents", []):
            yield entry["Key"], client.get_object(Bucket=s3["bucket"], Key=entry["Key"])["Body"].read()


def say_done(chunks: int) -> None:
    """Print the number of chunks written, for the benchmark."""
    print(json.dumps({"chunks": chunks}))
