"""Reports of the partitions of one job: each written once by a worker, folded into segments by the driver."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import orjson

from ingestion_engine.domain.ids import PartitionId
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import PartitionReport, ReportStatus
from ingestion_engine.state.json_files import create_once, dump_lines, iter_lines, list_segments, parse_json
from ingestion_engine.state.update import update_value


class ReportLog:
    """Reports in one folder. The methods of ``Ledger`` document cost and guarantees.

    Args:
        store: The state store.
        folder: Path that ends with a slash.
    """

    def __init__(self, store: StateStore, folder: str) -> None:
        self._store = store
        self._singles = f"{folder}single/"
        self._segments = f"{folder}segments/"

    def create(self, report: PartitionReport) -> None:
        """Write a report unless there is one; DONE replaces any other status."""
        path = self._single_path(report)

        def supersede(stored: bytes | None) -> bytes | None:
            is_better = stored is None or (
                report.status is ReportStatus.DONE and parse_json(path, stored)["status"] != ReportStatus.DONE
            )
            return orjson.dumps(report.to_json()) if is_better else None

        update_value(self._store, path, supersede, seen=None)

    def find_done(self, partition_id: PartitionId) -> PartitionReport | None:
        """Return the single DONE report of a partition with the highest epoch."""
        found: list[PartitionReport] = []
        for path in self._store.list(f"{self._singles}{_name(partition_id)}"):
            stored = self._store.get(path)
            if stored is not None:
                found.append(PartitionReport.from_json(parse_json(path, stored.data)))
        done = [report for report in found if report.status is ReportStatus.DONE]
        return max(done, key=lambda report: report.epoch, default=None)

    def fold(self, segment: str, reports: Sequence[PartitionReport]) -> None:
        """Write reports as one segment, then delete their single files."""
        if reports:
            create_once(self._store, self._segment_path(segment), dump_lines([report.to_json() for report in reports]))
        for report in reports:
            self._store.delete(self._single_path(report))

    def iter(self) -> Iterator[PartitionReport]:
        """Yield every report once."""
        seen: set[bytes] = set()
        read: set[str] = set()
        vanished = False
        paths = sorted(self._store.list(self._singles))
        yield from self._iter_segments(read, seen)
        for path in paths:
            stored = self._store.get(path)
            if stored is None:
                vanished = True
            else:
                yield from _once(PartitionReport.from_json(parse_json(path, stored.data)), seen)
        if vanished:
            # Folded after the listing; the segment was written before the single file was deleted.
            yield from self._iter_segments(read, seen)

    def _iter_segments(self, read: set[str], seen: set[bytes]) -> Iterator[PartitionReport]:
        for segment in list_segments(self._store, self._segments):
            if segment not in read:
                read.add(segment)
                for _, line in iter_lines(self._store, self._segment_path(segment)):
                    yield from _once(PartitionReport.from_json(orjson.loads(line)), seen)

    def _segment_path(self, segment: str) -> str:
        return f"{self._segments}{segment}.jsonl"

    def _single_path(self, report: PartitionReport) -> str:
        return f"{self._singles}{_name(report.partition_id, report.epoch)}.json"


def _name(partition_id: PartitionId, epoch: int | None = None) -> str:
    """Return the name of a report; without an epoch, the common start of the names of all reports of a partition."""
    return f"{partition_id}." if epoch is None else f"{partition_id}.{epoch}"


def _once(report: PartitionReport, seen: set[bytes]) -> Iterator[PartitionReport]:
    name = f"{_name(report.partition_id, report.epoch)}.{report.status == ReportStatus.DONE}"
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    if digest not in seen:
        seen.add(digest)
        yield report
