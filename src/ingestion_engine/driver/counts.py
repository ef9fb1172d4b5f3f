"""Counts of a job's work: the single source of its progress and summary.

Three threads share them without a lock around each update. Every field has one writer: the plan thread writes the
tally, the driver's thread everything else, and the monitor only reads single numbers. The partitions and their work,
which all of them use, have a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingestion_engine.domain.ids import PartitionId, SegmentKind
from ingestion_engine.domain.records import (
    FAILURES_OF,
    POINTS_OF,
    REMOVALS,
    UNFINISHED,
    WARNINGS_OF,
    Action,
    ObjectResult,
    Outcome,
    PartitionReport,
    RunningPartition,
)
from ingestion_engine.driver.plan.diff import Tally


@dataclass(slots=True)
class Counts:
    """Running totals of one job over its attempts. Objects are counted once, however often they were tried."""

    tally: Tally = field(default_factory=Tally)
    done: int = 0
    warned: int = 0
    """Objects that are done, or were repaired by ingesting them again, and of which something was left out."""
    warnings: dict[str, int] = field(default_factory=dict)
    """What was left out of them, by code of the warning."""
    failed: int = 0
    failed_again: int = 0
    """Failures of all attempts whose objects an earlier job failed too (``ObjectResult.again``): ``known_failed``."""
    gone: int = 0
    kept: int = 0
    deleted: int = 0
    same: int = 0
    different: int = 0
    repaired: int = 0
    foreign_points: int = 0
    searches_failed: int = 0
    """Searches for stray points that could not be completed."""
    points_seen: dict[str, int] = field(default_factory=dict)
    """Points found by comparisons, by store."""
    points: dict[str, dict[str, int]] = field(default_factory=dict)
    """Points by store: ``written`` and ``deleted``; see ``PartitionReport.points``."""
    points_known: bool = True
    """False when a partition was done by a worker of an earlier release, which does not count points."""
    chunks: int = 0
    chunks_embedded: int = 0
    chunks_reused: int = 0
    texts_lost: int = 0
    """Texts that were embedded for partitions that then were returned; their vectors are lost."""
    embed_calls: int = 0
    embed_refusals: int = 0
    """Those of the calls that were refused because of a text."""
    texts_in_vain: int = 0
    """Texts that were embedded in a call that was refused because of another one."""
    bytes_read: int = 0
    partitions_planned: int = 0
    partitions_done: int = 0
    partitions_repeated: int = 0
    """Number of times that a partition was returned or lost its process and had to run again."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    requests: dict[str, dict[str, float]] = field(default_factory=dict)
    """Requests of workers by system: ``done``, ``failed`` and their ``seconds``."""
    failures: dict[str, int] = field(default_factory=dict)
    """Failures of objects by code, of all attempts; an object that a later attempt tries again may have two."""
    _unfinished: dict[PartitionId, float] = field(default_factory=dict, init=False, repr=False)
    """Work of the current plan's partitions that have not ended."""
    _running: dict[PartitionId, RunningPartition] = field(default_factory=dict, init=False, repr=False)
    _work_planned: float = field(default=0.0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add_partitions(self, number: int) -> None:
        """Add partitions to the plan. Safe to call from several threads."""
        with self._lock:
            self.partitions_planned += number

    def begin_plan(self) -> None:
        """Forget the work of the former plan."""
        with self._lock:
            self._unfinished.clear()
            self._running.clear()
            self._work_planned = 0.0

    def add_work_planned(self, work: Mapping[PartitionId, float]) -> None:
        """Add the work of partitions to the current plan, in any unit."""
        with self._lock:
            self._unfinished.update(work)
            self._work_planned += sum(work.values())

    def divide(self, partition_id: PartitionId, parts: Sequence[PartitionId]) -> None:
        """Record that parts of a partition run in its place; they share its work."""
        with self._lock:
            self.partitions_planned += len(parts) - 1
            work = self._unfinished.pop(partition_id, 0.0)
            self._running.pop(partition_id, None)
            self._unfinished.update(dict.fromkeys(parts, work / max(1, len(parts))))

    def is_unfinished(self, partition_id: PartitionId) -> bool:
        """True for a partition of the current plan that has not ended."""
        with self._lock:
            return partition_id in self._unfinished

    def set_running(self, running: Mapping[PartitionId, RunningPartition]) -> None:
        """Replace what is known of the partitions that are running; those that have ended are left out."""
        with self._lock:
            self._running = {name: state for name, state in running.items() if name in self._unfinished}

    def work(self) -> tuple[float, float]:
        """Return the work of the current plan, and how much of it is done, in running partitions too."""
        with self._lock:
            left = sum(self._unfinished.values())
            begun = sum(self._unfinished[name] * min(1.0, state.share) for name, state in self._running.items())
            return self._work_planned, max(0.0, self._work_planned - left + begun)

    def running_totals(self) -> dict[str, int]:
        """Return the chunks and bytes of the running partitions, which the counts do not contain yet."""
        with self._lock:
            running = list(self._running.values())
        return {
            "chunks": sum(state.chunks for state in running),
            "bytes_read": sum(state.bytes_read for state in running),
        }

    def running_waits(self) -> list[str]:
        """Return what running partitions wait for, each reason once."""
        with self._lock:
            return list(dict.fromkeys(state.waits_for for state in self._running.values() if state.waits_for))

    def start_over(self) -> None:
        """Reset the counts of planning and comparison; objects ingested so far are counted from the object table."""
        self.failed_again = self.known_failed
        self.tally = Tally(already_deleted=self.deleted)
        self.done = self.warned = self.failed = self.gone = 0
        self.warnings = {}
        self.same = self.different = self.repaired = self.foreign_points = self.searches_failed = 0
        self.points_seen = {}

    def continue_from(self, former: Counts) -> None:
        """Begin with the totals of earlier attempts; call it before anything is counted."""
        work = ("chunks", "chunks_embedded", "chunks_reused", "embed_calls", "embed_refusals", "texts_in_vain")
        for name in ("deleted", "failed_again", *work, "bytes_read"):
            setattr(self, name, getattr(former, name))
        self.stage_seconds, self.requests, self.failures = former.stage_seconds, former.requests, former.failures
        self.points_known = former.points_known
        self.add_points(former.points)
        self.tally.already_deleted = former.deleted

    def add_former(self, report: PartitionReport) -> None:
        """Add a report of an earlier attempt: its work and its removals; the object table shows what else it did."""
        self._add_work(report)
        if report.partition_id.kind is SegmentKind.DELETIONS:
            self.deleted += sum(result.outcome is Outcome.DELETED for result in report.results)

    def _add_work(self, report: PartitionReport) -> None:
        self.chunks += report.chunks
        self.chunks_embedded += report.chunks_embedded
        self.chunks_reused += report.chunks_reused
        self.embed_calls += report.embed_calls
        self.embed_refusals += report.embed_refusals
        self.texts_in_vain += report.texts_in_vain
        self.bytes_read += report.bytes_read
        for step, seconds in report.seconds.items():
            self.stage_seconds[step] = round(self.stage_seconds.get(step, 0.0) + seconds, 4)
        self._add_requests(report)
        self.points_known &= report.points is not None
        self.add_points(report.points or {})
        for result in report.results:
            if result.error_code is not None and result.outcome is Outcome.FAILED:
                self.failures[result.error_code] = self.failures.get(result.error_code, 0) + 1
            self.failed_again += result.again and result.outcome is Outcome.FAILED

    def add_points(self, points: Mapping[str, Mapping[str, int]]) -> None:
        """Add points by store and by what was done with them."""
        for store, numbers in points.items():
            held = self.points.get(store, {})
            self.points[store] = {name: held.get(name, 0) + numbers.get(name, 0) for name in ("written", "deleted")}

    def _add_requests(self, report: PartitionReport) -> None:
        for system, made in report.requests.items():
            held = self.requests.get(system, {})
            self.requests[system] = {name: round(held.get(name, 0) + number, 4) for name, number in made.items()}

    def timings(self) -> dict[str, Any]:
        """Return what workers have spent their time on, as stored; safe while the driver's thread adds to it."""
        return {"stage_seconds": dict(self.stage_seconds), "requests": dict(self.requests)}

    def add_returned(self, report: PartitionReport) -> None:
        """Add what a partition without results had sent to the embedder, and deleted, when an error stopped it."""
        self.embed_calls += report.embed_calls
        self.embed_refusals += report.embed_refusals
        self.texts_in_vain += report.texts_in_vain
        self.texts_lost += report.chunks_embedded
        self._add_requests(report)
        deleted = {store: {"deleted": numbers["deleted"]} for store, numbers in (report.points or {}).items()}
        self.add_points(deleted)

    def add_report(self, report: PartitionReport) -> None:
        """Add a report of this attempt."""
        with self._lock:
            self._unfinished.pop(report.partition_id, None)
            self._running.pop(report.partition_id, None)
        self._add_work(report)
        self.partitions_done += 1
        for store, points in report.points_seen.items():
            self.points_seen[store] = self.points_seen.get(store, 0) + points
        kind = report.partition_id.kind
        for result in report.results:
            if kind is SegmentKind.STRAY_SEARCHES:
                self.searches_failed += result.outcome is Outcome.FAILED
                kinds = (result.differences or {}).values()
                self.foreign_points += sum(points for by_kind in kinds for points in by_kind.values())
            elif kind is SegmentKind.DELETIONS:
                self.deleted += result.outcome is Outcome.DELETED
                self.kept += result.outcome is Outcome.KEPT
            else:
                self._add_result(result)

    def _add_result(self, result: ObjectResult) -> None:
        outcome = result.outcome
        origin = result.origin
        is_repair = outcome is Outcome.DONE and origin is not None and not origin.is_interrupted
        self.done += outcome is Outcome.DONE and not is_repair
        self.warned += bool(result.warnings)
        for warning in result.warnings:
            self.warnings[warning.code] = self.warnings.get(warning.code, 0) + warning.count
        self.failed += outcome is Outcome.FAILED
        self.gone += outcome is Outcome.DELETED
        self.same += outcome is Outcome.SAME
        self.different += outcome is Outcome.DIFFERENT
        self.repaired += outcome is Outcome.REPAIRED or is_repair

    @property
    def total_failed(self) -> int:
        """Number of objects that failed, over all attempts of the job."""
        return self.failed + self.tally.already_failed

    @property
    def known_failed(self) -> int:
        """Number of the failed objects that an earlier job failed too, with the same content.

        Those that an earlier attempt counted and that have changed since are left out. Their rows do not tell which
        ones it counted, so all of them are: what the failure budget does not count is never too many.
        """
        return max(0, min(self.failed_again - self.tally.failed_changed, self.total_failed))

    @property
    def planned(self) -> int:
        """Number of objects that the job works on, over all its attempts, without deletions."""
        tally = self.tally
        # Never iterates over the dictionary, to which the plan thread may add an action meanwhile.
        to_do = sum(tally.by_action.get(action, 0) for action in Action if action not in REMOVALS)
        return to_do + tally.already_done + tally.already_failed

    @property
    def finished(self) -> int:
        """Number of objects that the job is done with, over all its attempts."""
        return self.done + self.tally.already_done + self.same + self.repaired

    def to_json(self) -> dict[str, Any]:
        """Return the counts as stored and served. At the end ``done + failed + different + skipped == listed``."""
        tally = self.tally
        warnings = dict(tally.warnings)  # in one step: the plan thread may add a code meanwhile
        for code, number in dict(self.warnings).items():
            warnings[code] = warnings.get(code, 0) + number
        return {
            "listed": tally.listed,
            "planned": self.planned,
            "done": self.finished,
            "failed": self.total_failed,
            "failed_again": self.known_failed,
            "objects_with_warnings": self.warned + tally.already_warned,
            "skipped": tally.unchanged + tally.directory_markers + tally.failed_before + self.gone,
            "unchanged": tally.unchanged,
            "directory_markers": tally.directory_markers,
            "failed_before": tally.failed_before,
            "outside_filters": tally.outside_filters,
            "gone": self.gone,
            "deleted": self.deleted,
            "to_delete": tally.deletes + tally.already_deleted,
            "verified": self.same + self.different + self.repaired,
            "different": self.different,
            "repaired": self.repaired,
            "foreign_points": self.foreign_points,
            "searches_failed": self.searches_failed,
            "new": tally.by_action.get(Action.NEW, 0),
            "changed": tally.by_action.get(Action.CHANGED, 0),
            "retried": sum(tally.by_action.get(action, 0) for action in (Action.RETRY, *UNFINISHED)),
            "bytes_planned": tally.bytes_planned,
            "bytes_read": self.bytes_read,
            "chunks_estimated": tally.chunks_estimated,
            "chunks": self.chunks,
            "chunks_embedded": self.chunks_embedded,
            "chunks_reused": self.chunks_reused,
            "texts_embedded": self.chunks_embedded + self.texts_lost,
            "embed_calls": self.embed_calls,
            "embed_refusals": self.embed_refusals,
            "texts_in_vain": self.texts_in_vain,
            "partitions_planned": self.partitions_planned,
            "partitions_done": self.partitions_done,
            "partitions_repeated": self.partitions_repeated,
            **{f"{WARNINGS_OF}{code}": number for code, number in sorted(warnings.items())},
            **{f"{FAILURES_OF}{code}": number for code, number in sorted(dict(self.failures).items())},
            **self._show_points(),
        }

    def _show_points(self) -> dict[str, int]:
        """Return the points by store; nothing of what is not known."""
        found = {f"{POINTS_OF['found']}{store}": number for store, number in sorted(dict(self.points_seen).items())}
        if not self.points_known:
            return found
        points = sorted(dict(self.points).items())
        return {f"{POINTS_OF[name]}{store}": held[name] for store, held in points for name in sorted(held)} | found
