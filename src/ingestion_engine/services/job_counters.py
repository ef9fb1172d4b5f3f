"""Counts of what jobs do, from the changes of their rows that this copy of the service makes.

Each change of a row is made by one copy only, which the table's revision ensures; so the sum over all copies is right,
and a take-over counts nothing twice. What an outage of the service has missed is counted with the next change, because
the row has the totals up to the last one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ingestion_engine.domain.records import FAILURES_OF, POINTS_OF, WARNINGS_OF
from ingestion_engine.domain.spec import Mode
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.job_states import JobEvent

DURATIONS_S: Final = (1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400, 259_200)
"""Bounds of the histogram of durations in seconds: from a sync without changes to three days."""

OTHER: Final = "other"
"""Stands for a value that is not known."""

MOST_NAMES: Final = 200
"""Most codes, stages and systems with series of their own. They are this product's, of which there are fewer; but a
driver of another version, or a damaged file, may report any text."""

_OUTCOMES: Final = ("done", "failed", "gone", "deleted")
_CHUNKS: Final = {"embedded": "chunks_embedded", "reused": "chunks_reused"}
_POINTS: Final = ("written", "deleted")
_BY_NAME: Final = {"failure": FAILURES_OF, "warning": WARNINGS_OF, **{name: POINTS_OF[name] for name in _POINTS}}
"""Counts whose names end with a code or the name of a store, by their kind in ``_read_totals``."""


@dataclass(slots=True)
class Durations:
    """A histogram of seconds."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATIONS_S) + 1))
    """Observations per bucket, not cumulative; the last one is above all bounds."""
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Add one observation."""
        self.buckets[bisect_left(DURATIONS_S, seconds)] += 1
        self.total_s += seconds


class JobCounters:
    """Totals since the start of this process, by labels. For one event loop."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str, str]] = Counter()
        """By engine, mode and state."""
        self.durations: dict[tuple[str, str, str], Durations] = {}
        """Time from submission to end, by the same."""
        self.attempts: Counter[tuple[str, str]] = Counter()
        """Drivers that engines have accepted, by engine and whether it is the ``first`` of its job or ``repeated``."""
        self.errors: Counter[str] = Counter()
        """Jobs that ended with an error, by its code."""
        self.objects: Counter[tuple[str, str]] = Counter()
        """By engine and outcome."""
        self.chunks: Counter[tuple[str, str]] = Counter()
        """By engine and kind."""
        self.points: Counter[tuple[str, str]] = Counter()
        """By store and what was done with them."""
        self.bytes_read: Counter[str] = Counter()
        self.embed_calls: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        """Failures of objects by code."""
        self.warnings: Counter[str] = Counter()
        self.waits_s: dict[tuple[str, str], float] = {}
        """By engine and what was waited for."""
        self.stages_s: dict[tuple[str, str], float] = {}
        """By engine and stage."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests of workers, by system and outcome."""
        self.requests_s: dict[str, float] = {}
        """Their duration, by system."""
        self._names: set[str] = set()
        self._counted: dict[str, dict[str, float]] = {}
        """What of each job under way is counted already, here or by another copy of the service; a later attempt may
        report less again for a while."""

    def note_change(self, before: JobRecord, after: JobRecord, event: JobEvent | None) -> None:
        """Count what a change of a row tells; ``event`` is what changed its phase, if anything did."""
        self._note_work(before, after)
        if event is JobEvent.ACCEPT:
            self._note_driver(before)
        if after.state.is_final and not before.state.is_final:
            self._note_end(after)

    def _note_driver(self, before: JobRecord) -> None:
        engine = before.engine.value
        for kind in ("first", "repeated"):
            # Both have a series from the first driver on: increase() does not see the value with which one begins.
            self.attempts[engine, kind] += (kind == "first") == (before.submitted_at is None)

    def _note_end(self, job: JobRecord) -> None:
        self._counted.pop(job.id, None)
        kind = (job.engine.value, _read_mode(job), job.state.value)
        self.ended[kind] += 1
        seconds = ((job.finished_at or job.created_at) - job.created_at).total_seconds()
        self.durations.setdefault(kind, Durations()).observe(max(0.0, seconds))
        if isinstance(job.error, Mapping):
            self.errors[self._bound(job.error.get("code"))] += 1

    def _note_work(self, before: JobRecord, after: JobRecord) -> None:
        if (after.counts, after.progress, after.timings) == (before.counts, before.progress, before.timings):
            return
        counted = self._counted.setdefault(before.id, {})
        for name, total in _read_totals(before).items():
            counted[name] = max(total, counted.get(name, 0))  # more than here: another copy has dispatched meanwhile
        engine = after.engine.value
        for name, total in _read_totals(after).items():
            more = total - counted.get(name, 0)
            if more > 0:
                counted[name] = total
                self._add(engine, name, more)

    def _add(self, engine: str, name: str, more: float) -> None:
        """Count the growth of one total of a job; names are those of ``_read_totals``."""
        kind, _, rest = name.partition(":")
        if kind == "object":
            self.objects[engine, rest] += int(more)
        elif kind == "chunk":
            self.chunks[engine, rest] += int(more)
        elif kind in _POINTS:
            self.points[self._bound(rest), kind] += int(more)
        elif kind == "bytes":
            self.bytes_read[engine] += int(more)
        elif kind == "embed":
            self.embed_calls[engine] += int(more)
        elif kind == "failure":
            self.failures[self._bound(rest)] += int(more)
        elif kind == "warning":
            self.warnings[self._bound(rest)] += int(more)
        elif kind == "wait":
            key = engine, self._bound(rest)
            self.waits_s[key] = self.waits_s.get(key, 0.0) + more
        elif kind == "stage":
            key = engine, self._bound(rest)
            self.stages_s[key] = self.stages_s.get(key, 0.0) + more
        elif kind == "seconds":
            system = self._bound(rest)
            self.requests_s[system] = self.requests_s.get(system, 0.0) + more
        else:
            self.requests[self._bound(rest), kind] += int(more)

    def _bound(self, name: Any) -> str:
        """Return a name that a driver reported, or ``other`` for one that is no name or too many."""
        if not isinstance(name, str) or not name.replace("_", "").isalnum() or not name.isascii() or len(name) > 64:
            return OTHER
        if name not in self._names:
            if len(self._names) >= MOST_NAMES:
                return OTHER
            self._names.add(name)
        return name


def _read_mode(job: JobRecord) -> str:
    """Return the mode of a job, ``other`` for one that this version does not know. Pure."""
    mode = job.request.get("mode", Mode.SYNC.value) if isinstance(job.request, Mapping) else OTHER
    return mode if mode in set(Mode) else OTHER


def _read_totals(job: JobRecord) -> dict[str, float]:
    """Return the totals of a job by names of one part or two, ``kind:label``. Pure."""
    counts = job.counts if isinstance(job.counts, Mapping) else {}
    totals = {f"object:{outcome}": _number(counts.get(outcome)) for outcome in _OUTCOMES}
    totals |= {f"chunk:{kind}": _number(counts.get(name)) for kind, name in _CHUNKS.items()}
    totals |= {"bytes": _number(counts.get("bytes_read")), "embed": _number(counts.get("embed_calls"))}
    for name, number in counts.items():
        for kind, prefix in _BY_NAME.items():
            if name.startswith(prefix):
                totals[f"{kind}:{name.removeprefix(prefix)}"] = _number(number)
    timings = job.timings or (job.progress or {}).get("timings")
    timings = timings if isinstance(timings, Mapping) else {}
    for kind, name in (("wait", "wait_seconds"), ("stage", "stage_seconds")):
        seconds = timings.get(name)
        if isinstance(seconds, Mapping):
            totals |= {f"{kind}:{label}": _number(value) for label, value in seconds.items()}
    requests = timings.get("requests")
    if isinstance(requests, Mapping):
        for system, values in requests.items():
            if isinstance(values, Mapping):
                totals |= {f"{kind}:{system}": _number(values.get(kind)) for kind in ("done", "failed", "seconds")}
    return totals


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63 else 0
