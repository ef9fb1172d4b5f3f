"""A listing without an object to work on, however long it is, does not keep a job from stopping."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from ingestion_engine.domain.records import ObjectRef
from support.doubles import MemoryBucket
from support.world import SkippingClock, World

_MOST_KEYS = 20_000_000
"""Keys after which the listing ends: a driver that reads all of them has missed its deadline by far."""


class EndlessBucket(MemoryBucket):
    """Lists keys until the job has stopped; the clock passes the job's deadline in between."""

    clock: SkippingClock
    listed = 0

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        for number in itertools.islice(itertools.count(), _MOST_KEYS):
            self.listed = number
            if number == 5_000:
                self.clock.sleep(7_200)
            yield ObjectRef(bucket, f"{prefix}{number:09d}", "etag", 1, "2024-01-02T03:04:06Z")


@pytest.mark.parametrize("mode", ["sync", "full", "plan"])
def test_a_deadline_ends_an_endless_listing(mode: str) -> None:
    """Nothing of the listing matches the job's globs, so that planning yields nothing to the driver."""
    bucket, clock = EndlessBucket(), SkippingClock()
    bucket.clock = clock
    world = World(bucket=bucket)
    summary = world.attempt(
        world.submit(mode=mode, max_runtime_s=3_600, source={"bucket": "docs", "include": ["*.none"]}), clock=clock
    )
    assert summary is not None
    assert (summary["state"], summary["error"]["code"]) == ("failed", "max_runtime_exceeded")
    assert bucket.listed < _MOST_KEYS - 1
