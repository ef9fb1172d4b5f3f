"""Samples of a job's throughput over its whole life, few enough to be part of its progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

MOST: Final = 120
"""Samples that are kept: a chart has no more points than this, and they take about 5 kB."""

FIRST_INTERVAL_S: Final = 1.0
"""Seconds between the first samples; doubles whenever there are too many."""


class ThroughputSamples:
    """Cumulative totals by Unix time. Of a job that lasts twice as long, every second sample is kept."""

    def __init__(self) -> None:
        self._interval_s = FIRST_INTERVAL_S
        self._samples: list[tuple[float, int, int, int]] = []

    def continue_from(self, former: object) -> None:
        """Go on with the samples of an earlier attempt, as stored; what cannot be read is left out."""
        try:
            assert isinstance(former, Mapping)
            samples = [(float(at), int(chunks), int(read), int(done)) for at, chunks, read, done in former["samples"]]
            interval_s = float(former["every_s"])
        except (AssertionError, LookupError, TypeError, ValueError):
            return
        if interval_s >= FIRST_INTERVAL_S and len(samples) <= MOST + 1:
            self._interval_s, self._samples = interval_s, samples

    def add(self, at: float, *, chunks: int, bytes_read: int, done: int) -> None:
        """Add the totals of now; the newest sample is replaced until it is an interval after the one before it."""
        sample = (round(at, 1), chunks, bytes_read, done)
        if len(self._samples) >= 2 and self._samples[-1][0] - self._samples[-2][0] < self._interval_s:
            self._samples[-1] = sample
        else:
            self._samples.append(sample)
        if len(self._samples) > MOST:
            self._interval_s *= 2
            newest = self._samples[-1]
            self._samples = self._samples[::2]
            if self._samples[-1] != newest:
                self._samples.append(newest)

    def to_json(self) -> dict[str, Any]:
        """Return the samples as stored."""
        return {"every_s": self._interval_s, "samples": [list(sample) for sample in list(self._samples)]}
