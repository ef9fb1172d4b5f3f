"""Samples of throughput: few, over the whole life of a job, also over attempts and releases."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ingestion_engine.driver.samples import MOST, ThroughputSamples


def sample_for(seconds: int, samples: ThroughputSamples, start: int = 0) -> ThroughputSamples:
    for second in range(start, start + seconds):
        samples.add(1_000_000.0 + second, chunks=2 * second, bytes_read=10 * second, done=second // 5)
    return samples


@pytest.mark.parametrize("seconds", [1, 2, 100, 121, 500, 5_000, 40_000])
def test_few_samples_cover_the_whole_job(seconds: int) -> None:
    """The first and the newest are kept; in between, the intervals are even but for the last one."""
    stored = sample_for(seconds, ThroughputSamples()).to_json()
    times = [sample[0] - 1_000_000 for sample in stored["samples"]]
    assert len(times) <= MOST + 1
    assert (times[0], times[-1]) == (0, seconds - 1)
    assert times == sorted(set(times))
    gaps = {after - before for before, after in itertools.pairwise(times[:-1])}
    assert gaps <= {stored["every_s"]}
    assert [sample[1] for sample in stored["samples"]] == [2 * time for time in times]


def test_the_next_attempt_goes_on_with_the_samples() -> None:
    """The pause between two attempts is a gap in time."""
    stored = sample_for(300, ThroughputSamples()).to_json()
    following = ThroughputSamples()
    following.continue_from(stored)
    sample_for(50, following, start=400)
    times = [sample[0] - 1_000_000 for sample in following.to_json()["samples"]]
    assert times[0] == 0
    assert times[-1] == 449
    assert len(times) <= MOST + 1


@pytest.mark.parametrize(
    "former", [None, [], {}, {"every_s": 1}, {"every_s": 0, "samples": []}, {"every_s": 1, "samples": [[1, 2]]}]
)
def test_samples_of_other_releases_are_left_out(former: Any) -> None:
    """A job goes on although its former progress has none, or of another form."""
    samples = ThroughputSamples()
    samples.continue_from(former)
    assert samples.to_json() == {"every_s": 1.0, "samples": []}
