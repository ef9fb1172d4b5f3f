"""The ledger: everything that one job records, in ``jobs/{job_id}/`` of the state store.

::

    spec.json                                   frozen request and settings; written once
    only_keys.json                              keys to which a retry is limited; the spec names the path
    plan/{segment}.jsonl · plan.json            one line per partition · totals for progress
    reports/single/{partition_id}.{epoch}.json  one per partition and epoch, written once by the worker
    reports/segments/{segment}.jsonl            many reports, folded by the driver
    failures/{segment}.jsonl · progress.json · summary.json · abort · log/{attempt}.txt
    progress/{partition_id}.json                how far a partition is that has run for long; for progress only

The driver names the segments (``a01-00003``: attempt, serial number). They sort by name and are never rewritten with
other content. All calls block; a ledger may be shared by threads. Every call raises ``TransientError`` while the state
store is unavailable.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from pydantic import ValidationError

from ingestion_engine.domain.errors import FatalError, LeaseLost, StateMissing
from ingestion_engine.domain.ids import PartitionId, SegmentName
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import Partition, PartitionReport, PlanItem, RunningPartition
from ingestion_engine.domain.spec import JobSpec
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.runtime.validation import describe_faults
from ingestion_engine.state.failures import FailureList
from ingestion_engine.state.json_files import (
    create_once,
    iter_lines,
    list_segments,
    parse_json,
    read_json,
    write_json,
)
from ingestion_engine.state.reports import ReportLog
from ingestion_engine.state.update import update_value

LOG_MAX_BYTES = 256 * 1024
"""Maximum size of the end of a driver's log: the last minutes of a verbose driver, cheap to rewrite."""

MOST_RUNNING = 64
"""Most running partitions whose progress is read: of more, each is a small part of the job."""
ENVIRONMENT_FAULTS = frozenset({"worker_mismatch", "spec_invalid"})
"""Codes of errors of an attempt that another package, Python or setting on the cluster would not have had."""

_SEGMENT = re.compile(r"[A-Za-z0-9-]+")


class Ledger:
    """The ledger of one job.

    Args:
        store: The state store, rooted at ``INGEST_STATE_URL``.
        job_id: Id of the job.
    """

    def __init__(self, store: StateStore, job_id: str) -> None:
        self.store = store
        self.job_id = job_id
        self._root = f"jobs/{job_id}/"
        self._reports = ReportLog(store, f"{self._root}reports/")
        self._failures = FailureList(store, f"{self._root}failures/")

    # -- spec ---------------------------------------------------------------------------------------------------------

    @property
    def spec_uri(self) -> str:
        """URI of the job's spec, from which drivers and workers find everything else."""
        return JobUri(self.store.url, self.job_id).spec_uri

    def write_spec(self, spec: JobSpec) -> None:
        """Write the spec once. Idempotent. Raises StateConflict when the job has another one. Cost: one request."""
        create_once(self.store, f"{self._root}spec.json", orjson.dumps(spec.model_dump(mode="json")))

    def replace_spec(self, spec: JobSpec) -> None:
        """Write the spec for the next attempt; nothing when it is stored already. Cost: one or two requests."""
        path, data = f"{self._root}spec.json", orjson.dumps(spec.model_dump(mode="json"))
        stored = self.store.get(path)
        if stored is None or stored.data != data:
            self.store.put(path, data)

    def read_spec(self) -> JobSpec:
        """Return the spec. One request.

        Raises:
            FatalError: "spec_missing"; "spec_invalid": this version of the package cannot read it.
        """
        path = f"{self._root}spec.json"
        data = read_json(self.store, path)
        if data is None:
            raise FatalError(
                "spec_missing", f"Job {self.job_id!r} has no spec in {self.store.url!r}.", job_id=self.job_id
            )
        try:
            return JobSpec.model_validate(data)
        except ValidationError as error:
            faults = describe_faults(error)
            raise FatalError(
                "spec_invalid",
                f"The spec of job {self.job_id!r} cannot be read: {faults}.",
                hint="Install the same version of the package on the service and the cluster.",
                job_id=self.job_id,
            ) from error

    def write_only_keys(self, keys: Sequence[str]) -> str:
        """Write the keys to which the job is limited, and return the path for its spec. One request."""
        path = f"{self._root}only_keys.json"
        write_json(self.store, path, list(keys))
        return path

    def read_only_keys(self, path: str) -> frozenset[str]:
        """Return the keys that ``write_only_keys`` stored at a path. One request.

        Raises:
            FatalError: "spec_missing": there is no list at the path.
        """
        stored = self.store.get(path)
        if stored is None:
            raise FatalError(
                "spec_missing",
                f"The list of keys {path!r} is missing from the state store.",
                hint="Submit the retry again.",
            )
        return frozenset(orjson.loads(stored.data))

    # -- plan ---------------------------------------------------------------------------------------------------------

    def write_plan_segment(self, segment: str, partitions: Sequence[tuple[PlanItem, ...]]) -> list[PartitionId]:
        """Write a segment of the plan once, and return the ids of its partitions, in order; nothing without partitions.

        An id names the segment, the byte range of the partition's line and 16 hex digits of its content hash, so a
        worker reads its partition by one ranged request. Idempotent. Cost: one request; memory: the segment.

        Raises:
            StateConflict: the segment exists with other content (an earlier driver used the same name).
        """
        _check_segment(segment)
        ids: list[PartitionId] = []
        lines: list[bytes] = []
        offset = 0
        for items in partitions:
            # The same bytes that Partition.content_hash hashes, so reading needs no second serialisation to verify.
            line = orjson.dumps(Partition.of_items(PartitionId(""), items).to_json(), option=orjson.OPT_SORT_KEYS)
            ids.append(PartitionId.make(segment, offset, line))
            lines.append(line + b"\n")
            offset += len(line) + 1
        if lines:
            create_once(self.store, f"{self._root}plan/{segment}.jsonl", b"".join(lines))
        return ids

    def read_partition(self, partition_id: PartitionId) -> Partition:
        """Return a partition after verifying that its content matches its id. One ranged request.

        Raises:
            FatalError: "plan_corrupt": the id is malformed, or its bytes are missing or others.
        """
        path = f"{self._root}plan/{partition_id.segment}.jsonl"
        try:
            line = self.store.get_range(path, *partition_id.byte_range)
        except StateMissing as error:
            raise FatalError(
                "plan_corrupt", f"{path!r} is missing from the state store.", partition_id=partition_id
            ) from error
        if not partition_id.matches(line):
            raise FatalError(
                "plan_corrupt", f"{path!r} does not contain partition {str(partition_id)!r}.", partition_id=partition_id
            )
        return Partition.from_json(partition_id, orjson.loads(line))

    def iter_plan(self, attempt: int | None = None) -> Iterator[Partition]:
        """Yield all partitions of the plan, or of one attempt's segments, in the order of segments and lines.

        Memory: the names of the segments and one block. Cost: one listing, one request per MiB of plan. Content is not
        verified.
        """
        folder = f"{self._root}plan/"
        wanted = "" if attempt is None else SegmentName.prefix(attempt)
        for segment in list_segments(self.store, folder):
            if not segment.startswith(wanted):
                continue
            for offset, line in iter_lines(self.store, f"{folder}{segment}.jsonl"):
                yield Partition.from_json(PartitionId.make(segment, offset, line), orjson.loads(line))

    def write_plan(self, summary: Mapping[str, Any]) -> None:
        """Write ``plan.json``, the totals of the plan: the plan is complete."""
        write_json(self.store, f"{self._root}plan.json", summary)

    def read_plan(self) -> dict[str, Any] | None:
        """Return ``plan.json``, or None while the plan is not complete."""
        return read_json(self.store, f"{self._root}plan.json")

    # -- reports ------------------------------------------------------------------------------------------------------

    def create_report(self, report: PartitionReport) -> None:
        """Write the report of a partition and epoch. The first one stays; DONE replaces any other status. Idempotent.

        Cost: one request; one or two more when there is a report already.
        """
        self._reports.create(report)

    def find_done_report(self, partition_id: PartitionId) -> PartitionReport | None:
        """Return the unfolded DONE report of a partition with the highest epoch; None when there is none.

        Cost: one listing of one prefix, one request per report found.
        """
        return self._reports.find_done(partition_id)

    def fold_reports(self, segment: str, reports: Sequence[PartitionReport]) -> None:
        """Write reports as one segment, then delete their single files.

        Idempotent. After a crash, calling it again is possible but not required.

        Args:
            segment: Name that was never used for other reports.
            reports: Any number of reports; nothing happens when there are none.

        Raises:
            StateConflict: the segment exists with other content; nothing is deleted.

        Cost: 1 + len(reports) requests; memory: the segment.
        """
        _check_segment(segment)
        self._reports.fold(segment, reports)

    def iter_reports(self) -> Iterator[PartitionReport]:
        """Yield every report once: segments first, then single files, in no particular order; safe during folding.

        Two reports of one partition and epoch are both yielded only when one is DONE and the other is not.
        Memory: about 150 bytes per partition. Cost: two listings, one request per MiB of segments and per single file.
        """
        return self._reports.iter()

    # -- failures -----------------------------------------------------------------------------------------------------

    def write_failures(self, segment: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Write a segment of failed objects, replacing an existing one; nothing without items. One request."""
        _check_segment(segment)
        self._failures.write(segment, items)

    def delete_failures(self, attempt_prefix: str) -> None:
        """Delete all segments of failures with a name that starts with a prefix (``a01-``)."""
        self._failures.delete(attempt_prefix)

    def read_failures(
        self, cursor: str | None, limit: int, codes: frozenset[str] | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return one page of failed objects, in the order of segments and lines, and the cursor of the next page.

        Args:
            cursor: Cursor of the previous page; None means the first page. It stays valid while segments are added or
                deleted.
            limit: Maximum number of items, at least 1.
            codes: Only failures with one of these codes; None means all. Reads at most ``failures.SCANNED`` failures,
                so that a page may have fewer items than there are.

        Returns:
            The items, and the cursor; None when there are no more items at present.

        Raises:
            SubmissionError: "validation_error": the cursor was not made by this method.

        Memory: the page and one block. Cost: one listing and about one ranged read per segment touched.
        """
        return self._failures.read(cursor, limit, codes)

    # -- progress, end, abort, log ------------------------------------------------------------------------------------

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Write ``progress.json``; the driver calls this at most once per second. One request."""
        write_json(self.store, f"{self._root}progress.json", progress)

    def read_progress(self) -> dict[str, Any] | None:
        """Return ``progress.json``, or None when no driver has started. One request."""
        return read_json(self.store, f"{self._root}progress.json")

    def write_running(self, partition_id: PartitionId, state: RunningPartition) -> None:
        """Write how far a running partition is, replacing it. One request."""
        write_json(self.store, f"{self._root}progress/{partition_id}.json", asdict(state))

    def delete_running(self, partition_id: PartitionId) -> None:
        """Remove what ``write_running`` wrote. One request."""
        self.store.delete(f"{self._root}progress/{partition_id}.json")

    def read_running(self, selects: Callable[[PartitionId], bool]) -> dict[PartitionId, RunningPartition]:
        """Return how far some of the running partitions are, as far as their workers have reported it.

        Cost: one listing, and one request for each of at most ``MOST_RUNNING`` partitions.
        """
        folder = f"{self._root}progress/"
        names = (PartitionId(path.removeprefix(folder).removesuffix(".json")) for path in self.store.list(folder))
        found: dict[PartitionId, RunningPartition] = {}
        for partition_id in itertools.islice(filter(selects, names), MOST_RUNNING):
            data = read_json(self.store, f"{folder}{partition_id}.json")
            if data is not None:
                found[partition_id] = RunningPartition(
                    data["share"], data["chunks"], data["bytes_read"], waits_for=data.get("waits_for", "")
                )
        return found

    def make_summary(
        self,
        *,
        state: JobState,
        attempt: int,
        epoch: int = 0,
        started_at: str | None = None,
        counts: Mapping[str, int] | None = None,
        timings: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        note: str | None = None,
    ) -> dict[str, Any]:
        """Return a summary that ends now; ``write_summary`` or ``write_forced_summary`` makes it durable.

        Args:
            state: State in which the job ends.
            attempt: Number of the attempt.
            epoch: Epoch of the attempt's lease; 0 without one.
            started_at: When the attempt began, RFC 3339; None when it is not known.
            counts: Counts of the job.
            timings: Seconds by phase and stage.
            error: ``IngestionError.record()`` of what ended the job; None when it did not fail.
            note: What the state alone does not tell, for humans.
        """
        return {
            "format": 1,
            "job_id": self.job_id,
            "state": state.value,
            "attempt": attempt,
            "epoch": epoch,
            "started_at": started_at,
            "finished_at": timestamp_now(),
            "counts": dict(counts or {}),
            "timings": dict(timings or {}),
            "error": error,
            "note": note,
        }

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``: the attempt has ended. Never replaces the summary of a later attempt or epoch.

        Raises:
            LeaseLost: a later attempt (or epoch of this attempt) has ended already; its summary stays.

        Cost: two requests.
        """
        path = f"{self._root}summary.json"

        def supersede(stored: bytes | None) -> bytes:
            former = {} if stored is None else parse_json(path, stored)
            if former.get("forced") or _age(former) > _age(summary):
                raise LeaseLost(
                    "lease_lost", f"A later attempt of job {self.job_id!r} has ended already.", job_id=self.job_id
                )
            return orjson.dumps(summary)

        update_value(self.store, path, supersede)

    def write_forced_summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write the summary of a job that the service ends without its driver; return the one that stands. Idempotent.

        No driver replaces it. One that a driver has written before stands, unless it only says that its environment
        could not run the job. Cost: two requests.
        """
        path = f"{self._root}summary.json"

        def add(stored: bytes | None) -> bytes | None:
            stands = stored is not None and not is_environment_fault(parse_json(path, stored))
            return None if stands else orjson.dumps({**summary, "forced": True})

        written = update_value(self.store, path, add)
        assert written is not None
        return parse_json(path, written.data)

    def read_summary(self, attempt: int | None = None) -> dict[str, Any] | None:
        """Return ``summary.json``, or None while no attempt has ended. One request.

        Args:
            attempt: The newest attempt: then a summary with which an earlier one was put back is left out.
        """
        summary = read_json(self.store, f"{self._root}summary.json")
        if summary is None or attempt is None or not is_environment_fault(summary):
            return summary
        return summary if _age(summary)[0] >= attempt else None

    def request_abort(self, reason: str) -> None:
        """Request that driver and workers stop. Cannot be undone. One request."""
        self.store.put(f"{self._root}abort", reason.encode())

    def is_aborted(self) -> bool:
        """Return whether a stop of the job was requested. One request."""
        return self.store.get(f"{self._root}abort") is not None

    def write_log(self, attempt: int, text: str) -> None:
        """Write the end of the driver log of an attempt (at most 256 KiB), replacing it. One request."""
        self.store.put(f"{self._root}log/{attempt}.txt", text.encode("utf-8", errors="replace")[-LOG_MAX_BYTES:])

    def read_log(self, attempt: int) -> str | None:
        """Return the log that ``write_log`` stored last, or None. One request."""
        stored = self.store.get(f"{self._root}log/{attempt}.txt")
        return None if stored is None else stored.data.decode("utf-8", errors="ignore")


def _check_segment(segment: str) -> None:
    if not _SEGMENT.fullmatch(segment):
        raise ValueError(f"The name of a segment has letters, digits and hyphens only, unlike {segment!r}.")


def _age(summary: Mapping[str, Any]) -> tuple[int, int]:
    return summary.get("attempt") or 0, summary.get("epoch") or 0


def is_environment_fault(summary: Mapping[str, Any]) -> bool:
    """Return whether a summary only says that its attempt's environment could not run the job. Pure.

    The service then puts the job back, and the next attempt's driver works as if there were no summary.
    """
    error = summary.get("error")
    return isinstance(error, Mapping) and error.get("code") in ENVIRONMENT_FAULTS
