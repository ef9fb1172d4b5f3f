"""The table of the audit log, on SQLite and a real PostgreSQL: append-only, paged by its index, removed by age."""

from __future__ import annotations

import datetime as dt
import os
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ingestion_engine.domain.audit import Outcome
from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.audit import log as audit_module
from ingestion_engine.services.audit.entries import AuditEntry, first_id, new_entry_id
from ingestion_engine.services.audit.lines import AuditLines
from ingestion_engine.services.audit.log import AuditFilter, AuditLog
from ingestion_engine.services.audit.retention import AuditRetention
from ingestion_engine.services.job_records import audit_log
from ingestion_engine.services.job_store import JobStore
from ingestion_engine.services.leadership import Leadership

DAY = dt.timedelta(days=1)


def make_entry(age: dt.timedelta = dt.timedelta(), **fields: object) -> AuditEntry:
    """An entry that was made some time ago."""
    moment = utc_now() - age
    entry_id = new_entry_id() if not age else first_id(moment)[:12] + new_entry_id()[12:]
    values = {"id": entry_id, "at": moment, "outcome": Outcome.DONE, "operation": "delete_collection", **fields}
    return AuditEntry(**values)  # type: ignore[arg-type]  # checked by the table


def open_log(store: JobStore) -> AuditLog:
    return AuditLog(store.database, AuditLines(None))


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET who = 'nobody'", "DELETE FROM audit_log"])
async def test_the_database_itself_refuses_to_change_an_entry(
    job_stores: tuple[JobStore, JobStore], statement: str
) -> None:
    """Also a statement that nothing in the code makes, from an account that may change the table."""
    store, _ = job_stores
    await open_log(store).end(make_entry(who="boss"))
    with pytest.raises((DBAPIError, DatabaseUnavailable)) as refused:
        async with store.database.writing() as connection:
            await connection.execute(sa.text(statement))
    assert "append-only" in repr(refused.value)
    found, _ = await open_log(store).list_page(AuditFilter(), limit=10, cursor=None)
    assert [entry.who for entry in found] == ["boss"]


def test_no_statement_of_the_code_changes_an_entry() -> None:
    """Only the removal of old ones deletes."""
    source = Path(__file__).parents[2] / "src" / "ingestion_engine"
    for path in source.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "update(audit_log" not in text, path
        assert ("delete(audit_log" in text) == (path == source / "services" / "audit" / "log.py"), path


async def test_copies_of_the_service_share_one_log(job_stores: tuple[JobStore, JobStore]) -> None:
    """Entries of both are listed by each, in the order in which they were made, with every value."""
    one, two = (open_log(store) for store in job_stores)
    made = []
    for number in range(10):
        entry = make_entry(
            who=f"key-{number}",
            kind="key",
            key_id="ab12",
            address="192.0.2.7",
            method="DELETE",
            status=200,
            request_id=f"r{number}",
            subject="notes",
            job_id="job-1",
            details={"bucket": "docs", "number": 3},
            number=2,
            until=utc_now(),
        )
        made.append(entry)
        await (one if number % 2 else two).end(entry)
    for log in (one, two):
        listed: list[AuditEntry] = []
        cursor = None
        while True:
            page, cursor = await log.list_page(AuditFilter(), limit=3, cursor=cursor)
            listed += page
            if cursor is None:
                break
        assert listed == made[::-1]


async def test_every_filter_is_answered_by_an_index(job_stores: tuple[JobStore, JobStore]) -> None:
    """So that a page of a log with millions of entries takes milliseconds."""
    store, _ = job_stores
    async with store.database.reading() as connection:
        if not store.database.is_sqlite:
            await connection.execute(sa.text("SET enable_seqscan = off"))
        for column in ("who", "operation", "outcome", "subject", "job_id", "begun"):
            query = sa.select(audit_log.c.id).where(audit_log.c[column] == "x", audit_log.c.id < "f" * 32)
            ordered = query.order_by(audit_log.c.id.desc()).limit(10)
            text = str(ordered.compile(connection.sync_engine, compile_kwargs={"literal_binds": True}))
            explain = "EXPLAIN QUERY PLAN " if store.database.is_sqlite else "EXPLAIN "
            plan = repr((await connection.execute(sa.text(explain + text))).all())
            assert "ix_audit_" in plan or "audit_log_pkey" in plan, (column, plan)
            assert "Seq Scan" not in plan
            assert 'SCAN audit_log"' not in plan


async def test_old_entries_are_removed_by_whole_days_and_that_is_recorded(
    job_stores: tuple[JobStore, JobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches, by the copy that dispatches only, once a day."""
    monkeypatch.setattr(audit_module, "REMOVED_AT_ONCE", 4)
    store, other = job_stores
    log = open_log(store)
    for number in range(10):
        await log.end(make_entry(12 * DAY, who=f"old-{number}"))
    for number in range(3):
        await log.end(make_entry(9 * DAY, who=f"young-{number}"))
    leader, follower = Leadership(store), Leadership(other)
    assert await leader.renew()
    await follower.renew()
    sweep = AuditRetention(log, leader, days=10, now=utc_now).sweep
    await sweep()
    found, _ = await log.list_page(AuditFilter(), limit=100, cursor=None)
    assert [entry.operation for entry in found] == ["audit.remove", *["delete_collection"] * 3]
    assert found[0].details["entries"] == 10
    await log.end(make_entry(12 * DAY))
    await sweep()
    assert len((await log.list_page(AuditFilter(), limit=100, cursor=None))[0]) == 5
    await AuditRetention(log, leader, days=0, now=utc_now).sweep()
    assert len((await log.list_page(AuditFilter(), limit=100, cursor=None))[0]) == 5


async def test_nothing_is_removed_while_the_clock_has_jumped(job_stores: tuple[JobStore, JobStore]) -> None:
    """A clock that is years ahead for a moment would take the whole log with it."""
    store, _ = job_stores
    log = open_log(store)
    await log.end(make_entry(2 * DAY))
    leader = Leadership(store)
    assert await leader.renew()
    ahead = [dt.timedelta()]
    sweep = AuditRetention(log, leader, days=10, now=lambda: utc_now() + ahead[0], clock=lambda: 0.0).sweep
    await sweep()
    ahead[0] = 3650 * DAY
    await sweep()
    assert len((await log.list_page(AuditFilter(), limit=100, cursor=None))[0]) == 1


async def test_an_entry_whose_commit_had_no_answer_is_stored_once(job_stores: tuple[JobStore, JobStore]) -> None:
    """The connection may be lost after the server has committed; the next attempt finds the entry there."""
    store, _ = job_stores
    log = open_log(store)
    entry, second = make_entry(), make_entry()
    await log.end(entry)
    log._kept.extend([entry, second])
    await log.flush()
    assert log.waiting == 0
    assert len((await log.list_page(AuditFilter(), limit=100, cursor=None))[0]) == 2


def test_a_pipe_that_nobody_reads_holds_up_nobody(tmp_path: Path) -> None:
    """The service writes lines between requests, and `ingest keys` before it shows a key."""
    pipe = tmp_path / "lines"
    os.mkfifo(pipe)
    lines = AuditLines(pipe)
    writer = threading.Thread(target=lambda: lines.write({"number": 1}), daemon=True)
    writer.start()
    writer.join(10)
    assert not writer.is_alive()
    assert lines.lost == 1
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        lines.write({"number": 2})
        assert os.read(reader, 100) == b'{"number": 2}\n'
        for _ in range(100):  # it holds 64 KiB
            lines.write({"text": "x" * 4_000})
        assert 80 < lines.lost < 100
    finally:
        os.close(reader)
        lines.close()
