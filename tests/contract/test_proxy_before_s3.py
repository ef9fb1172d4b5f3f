"""Jobs over an S3 server behind a proxy that answers in its place for a while: nothing is removed because of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pydantic import SecretStr

from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.source import S3Source
from ingestion_engine.runtime.settings import S3Settings
from support.exact_s3 import KEY_ID, SECRET, exact_s3
from support.world import PARAGRAPHS, World, balanced

KEYS = [f"doc-{n:02}.txt" for n in range(15)]
Answer = Callable[[str], tuple[int, bytes] | None]


def of_objects(path: str) -> tuple[int, bytes] | None:
    """As an ingress does whose route to the server is missing."""
    return (404, b"default backend - 404") if "list-type" not in path else None


def of_everything(_path: str) -> tuple[int, bytes] | None:
    return 404, b"default backend - 404"


def empty_page(path: str) -> tuple[int, bytes] | None:
    """As a proxy does that shows a page for everything."""
    return (200, b"<html><body>Please wait</body></html>") if "list-type" in path else None


def nothing(path: str) -> tuple[int, bytes] | None:
    return (200, b"") if "list-type" in path else None


@pytest.mark.parametrize("answer", [of_objects, of_everything, empty_page, nothing])
@pytest.mark.parametrize("mode", ["full", "sync"])
def test_a_job_waits_until_s3_itself_answers(answer: Answer, mode: str) -> None:
    """The proxy steps in when the second job has begun; all points are there at the end, and one object is changed."""
    left = [0]

    def step_in(path: str) -> tuple[int, bytes] | None:
        if not left[0]:
            return None
        instead = answer(path)
        left[0] -= instead is not None
        return instead

    with exact_s3(proxy=step_in) as url:
        settings = S3Settings(endpoint_url=url, access_key_id=SecretStr(KEY_ID), secret_access_key=SecretStr(SECRET))
        client = make_client(settings)
        client.create_bucket(Bucket="docs")
        for key in KEYS:
            client.put_object(Bucket="docs", Key=key, Body=PARAGRAPHS[0].encode())
        source: Any = S3Source(settings)
        world = World(bucket=source)
        assert world.run()["counts"]["done"] == len(KEYS)
        client.put_object(Bucket="docs", Key=KEYS[3], Body=PARAGRAPHS[1].encode())
        left[0] = 20
        summary = world.run(mode=mode, allow_mass_delete=True)
        with suppress(AttributeError):
            source._client.close()
    assert left == [0], "the proxy was asked often enough to mislead anybody"
    counts = summary["counts"]
    assert (summary["state"], counts["gone"], counts["deleted"], counts["failed"]) == ("succeeded", 0, 0, 0)
    assert balanced(summary)
    for number, key in enumerate(KEYS):
        assert world.texts(key) == [PARAGRAPHS[number == 3]]
