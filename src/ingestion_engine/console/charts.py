"""Geometry of charts: the templates draw them as SVG, so that they need no script. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ingestion_engine.models.jobs import ThroughputSample, TimeShareView
from ingestion_engine.runtime.timestamps import parse_timestamp

WIDTH: Final = 640
HEIGHT: Final = 150
_LEFT, _BOTTOM, _TOP, _RIGHT = 44, 8, 10, 6

MACHINE_NAMES: Final = {
    "embedder": "Embedder",
    "qdrant": "Qdrant",
    "weaviate": "Weaviate",
    "s3": "S3: listing and reading",
    "workers": "Processors of the workers",
    "capacity": "Waiting for a place",
    "state": "State store",
    "lease": "Lease of another attempt",
    "cluster": "Cluster",
    "other": "Other",
}
"""What pages call a machine that limits a job."""

_SERIES: Final = {"embedder": 1, "qdrant": 2, "weaviate": 3, "workers": 4, "s3": 5}
"""Colour of a machine; all others have the sixth."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The work between two samples."""

    ends_at: str
    chunks_per_s: float
    bytes_per_s: float
    objects: int
    """Objects that are done at its end."""


@dataclass(frozen=True, slots=True)
class LineChart:
    """A line over time, in units of the drawing."""

    line: str
    """Path of the line."""
    area: str
    """Path of the area below it."""
    grid: tuple[tuple[float, str], ...]
    """Height and label of each horizontal line."""
    begins_at: str
    ends_at: str
    intervals: tuple[Interval, ...]
    """The same as numbers."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT


@dataclass(frozen=True, slots=True)
class BarPart:
    """Part of a bar of 100 units."""

    name: str
    start: float
    width: float
    series: int
    percent: float
    seconds: float


def draw_throughput(samples: Sequence[ThroughputSample] | None) -> LineChart | None:
    """Return the chart of chunks per second; None while there is too little to draw."""
    intervals, times = _measure(samples or ())
    if len(intervals) < 2 or samples is None:
        return None
    top = _round_up(max(one.chunks_per_s for one in intervals))
    start, whole = times[0][0], times[-1][1] - times[0][0]

    def x(moment: float) -> float:
        return round(_LEFT + (moment - start) / whole * (WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + (1 - value / top) * (HEIGHT - _TOP - _BOTTOM), 1)

    points = [(x(times[0][0]), y(intervals[0].chunks_per_s))]
    points += [(x(end), y(one.chunks_per_s)) for one, (_, end) in zip(intervals, times, strict=True)]
    line = "M" + " L".join(f"{across} {down}" for across, down in points)
    base = y(0)
    return LineChart(
        line=line,
        area=f"{line} L{points[-1][0]} {base} L{points[0][0]} {base} Z",
        grid=tuple((y(top * part / 2), _label(top * part / 2)) for part in (0, 1, 2)),
        begins_at=samples[0].at,
        ends_at=samples[-1].at,
        intervals=tuple(intervals),
    )


def divide_bar(parts: Sequence[TimeShareView] | None) -> list[BarPart]:
    """Return the parts of the bar that shows what limits a job, the largest first."""
    bar: list[BarPart] = []
    start = 0.0
    for part in parts or ():
        width = part.share * 100
        name, series = MACHINE_NAMES.get(part.machine, part.machine), _SERIES.get(part.machine, 6)
        bar.append(
            BarPart(
                name,
                start=round(start, 2),
                width=round(width, 2),
                series=series,
                percent=width,
                seconds=part.seconds,
            )
        )
        start += width
    return bar


def _measure(samples: Sequence[ThroughputSample]) -> tuple[list[Interval], list[tuple[float, float]]]:
    intervals: list[Interval] = []
    times: list[tuple[float, float]] = []
    for before, after in itertools.pairwise(samples):
        begin, end = parse_timestamp(before.at).timestamp(), parse_timestamp(after.at).timestamp()
        if end <= begin:
            continue  # the clock of another node, after a new attempt
        chunks, read = max(0, after.chunks - before.chunks), max(0, after.bytes - before.bytes)
        intervals.append(
            Interval(
                after.at,
                chunks_per_s=chunks / (end - begin),
                bytes_per_s=read / (end - begin),
                objects=after.objects,
            )
        )
        times.append((begin, end))
    return intervals, times


def _round_up(value: float) -> float:
    """Return the next number of the form 1, 2 or 5 times a power of ten."""
    step = 1.0
    while step < value:
        for factor in (2, 5, 10):
            if step * factor >= value:
                return step * factor
        step *= 10
    return step


def _label(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
