"""Ledger, lease and object table over a real S3 server's conditional writes and ranged reads."""

from __future__ import annotations

import threading

import pytest

from ingestion_engine.adapters.s3.state_store import S3StateStore
from ingestion_engine.domain.errors import LeaseLost
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.records import Action, ObjectRef, PlannedObject, RowState, TableRow
from ingestion_engine.runtime.settings import S3Settings
from ingestion_engine.state.lease import LeaseCheck, acquire
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.manifest import read_manifest
from ingestion_engine.state.object_table.table import ObjectTable


@pytest.fixture
def store(s3_settings: S3Settings, s3_bucket: str) -> StateStore:
    return S3StateStore(s3_settings, f"s3://{s3_bucket}/state")


def row(key: str, epoch: int, state: str = "present") -> TableRow:
    date = "2026-01-01T00:00:00Z"
    job = f"job-{epoch}"
    return TableRow(
        key, "e", 1, date, f"o{key}", RowState(state), None, None, False, "f", epoch, "", "", epoch, job, date
    )


def test_drivers_take_turns(store: StateStore) -> None:
    """Of four concurrent drivers, one at a time holds the lease, each under its own epoch."""
    inside = threading.Lock()
    epochs = []

    def drive(number: int) -> None:
        held = acquire(store, "docs", f"job-{number}", 1, ttl_s=5.0, grace_s=0.1, wall_clock=lambda: 0.0)
        with held.keep_alive():
            assert inside.acquire(blocking=False)
            LeaseCheck(store, "docs", f"job-{number}", held.epoch).check()
            epochs.append(held.epoch)
            inside.release()
        held.release()

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert epochs == [1, 2, 3, 4]


def test_concurrent_appends_are_all_kept(store: StateStore) -> None:
    """Writers that collide on the manifest read it again; none of their runs is lost."""
    tables = [ObjectTable(store, "docs") for _ in range(4)]
    threads = [
        threading.Thread(target=table.append_run, args=([row(f"k{n}", 1)],), kwargs={"epoch": 1, "job_id": f"job-{n}"})
        for n, table in enumerate(tables)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_manifest(store, "collections/docs/objects/manifest.json").runs) == 4
    assert [r.key for r in tables[0].scan()] == ["k0", "k1", "k2", "k3"]
    tables[0].fence(2)
    with pytest.raises(LeaseLost):
        tables[1].append_run([row("z", 1)], epoch=1, job_id="job-z")
    assert tables[0].compact(max_runs=1) == 1
    assert [r.key for r in tables[0].scan("k2")] == ["k2"]


def test_a_table_of_many_row_groups(store: StateStore) -> None:
    """Ranged reads of footers and row groups find every row, and newer runs win."""
    table = ObjectTable(store, "docs", row_group_rows=1000)
    table.append_unsorted((row(f"{(n * 7919) % 40_000:05d}", 1) for n in range(40_000)), epoch=1, job_id="job-1")
    table.append_run((row(f"{n:05d}", 2, "removed") for n in range(0, 40_000, 100)), epoch=2, job_id="job-2")
    assert sum(1 for _ in table.scan()) == 39_600
    assert [r.key for r in table.scan("3990")] == [f"{n:05d}" for n in range(39_901, 39_910)]
    assert table.stats() == {"present": 39_600, "failed": 0, "with_warnings": 0, "chunks": 39_600}


def test_partitions_and_failures_by_ranges(store: StateStore) -> None:
    """Segments with a size that is a multiple of the block, and keys of any kind, are read back completely."""
    ledger = Ledger(store, "job-a")
    parts = [(PlannedObject(ObjectRef("docs", key, "e", 1, ""), Action.NEW),) for key in ("a b", "ü//😀", "./x")]
    ids = ledger.write_plan_segment("a01-00000", parts)
    assert [ledger.read_partition(partition_id).objects for partition_id in ids] == parts
    assert [partition.id for partition in ledger.iter_plan(1)] == ids
    items = [{"n": 1, "reason": "x" * (64 * 1024 - len('{"n":1,"reason":""}\n'))}, {"n": 2}]
    for size in (1, 2):
        ledger.write_failures("a01-00000", items[:size])
        got, cursor = [], None
        while True:
            page, cursor = ledger.read_failures(cursor, 1)
            got += page
            if cursor is None:
                break
        assert got == items[:size]
