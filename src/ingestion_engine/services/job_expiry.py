"""Rows of jobs that ended long ago: found, marked, removed. The statements of ``retention``.

A marked row is invisible to callers and to every query of ``JobStore``; it stays until nothing else of its job is left.
Rows that this version of the service cannot read are treated like all others: only plain columns are used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ingestion_engine.domain.states import FINAL_STATES
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import jobs
from ingestion_engine.services.job_store import READ_ROWS, DispatchLease, is_current

_ENDED = jobs.c.state.in_([state.value for state in FINAL_STATES])


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended."""

    job_id: str
    collection: str


class EndedRows:
    """Rows of jobs that have ended. Every method raises DatabaseUnavailable while the database does not respond."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_due(self, before: Moment, *, after: str, limit: int) -> list[EndedJob]:
        """Return jobs that ended before a moment and are not marked, by id from ``after`` on. One query."""
        query = sa.select(jobs.c.id, jobs.c.collection).where(_is_due(before), jobs.c.id > after)
        return await self._read(query.order_by(jobs.c.id).limit(limit))

    async def count_due(self, before: Moment) -> int:
        """Return the number of jobs that ended before a moment, those that are marked included. One query."""
        due = sa.or_(_is_due(before), jobs.c.removing_at.is_not(None))
        async with self._database.reading() as connection:
            number: int = (await connection.execute(sa.select(sa.func.count()).where(due))).scalar_one()
        return number

    async def list_marked(self, before: Moment, limit: int) -> list[EndedJob]:
        """Return jobs that were marked before a moment, by id. One query."""
        query = sa.select(jobs.c.id, jobs.c.collection).where(jobs.c.removing_at < before)
        return await self._read(query.order_by(jobs.c.id).limit(limit))

    async def mark(self, ids: Collection[str], now: Moment, *, lead: DispatchLease) -> int:
        """Make jobs that have ended invisible, and free their idempotency keys; return the number. One statement.

        Nothing is changed when another copy of the service dispatches now.
        """
        change = sa.update(jobs).where(jobs.c.id.in_(ids), _ENDED, jobs.c.removing_at.is_(None), is_current(lead))
        values = {"removing_at": now, "idempotency_key": None, "revision": jobs.c.revision + 1}
        async with self._database.changing() as connection:
            return (await connection.execute(change.values(values))).rowcount

    async def remove(self, job_id: str, *, lead: DispatchLease) -> bool:
        """Remove a marked row; return whether this call did. Nothing is changed when another copy dispatches now."""
        removal = sa.delete(jobs).where(jobs.c.id == job_id, jobs.c.removing_at.is_not(None), is_current(lead))
        async with self._database.changing() as connection:
            return bool((await connection.execute(removal)).rowcount)

    async def find_used(self) -> frozenset[str]:
        """Return the jobs that a retry which has not ended names, as its origin or by its list of keys. One query."""
        query = sa.select(jobs.c.retry_of, jobs.c.only_keys_path).where(
            sa.not_(_ENDED), sa.or_(jobs.c.retry_of.is_not(None), jobs.c.only_keys_path.is_not(None))
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        origins = {origin for origin, _ in rows if origin}
        lists = {path.split("/")[1] for _, path in rows if path and path.startswith("jobs/") and "/" in path[5:]}
        return frozenset(origins | lists)

    async def find_known(self, ids: Sequence[str]) -> set[str]:
        """Return those ids that have a row of any kind. One query per ``READ_ROWS`` ids."""
        known: set[str] = set()
        async with self._database.reading() as connection:
            for start in range(0, len(ids), READ_ROWS):
                query = sa.select(jobs.c.id).where(jobs.c.id.in_(ids[start : start + READ_ROWS]))
                known.update((await connection.execute(query)).scalars())
        return known

    async def _read(self, query: sa.Select[Any]) -> list[EndedJob]:
        async with self._database.reading() as connection:
            return [EndedJob(*row) for row in (await connection.execute(query)).all()]


def _is_due(before: Moment) -> sa.ColumnElement[bool]:
    """Return the condition that a job ended before a moment and is not marked. Pure.

    The end is a time of the driver's clock; the creation, which is the service's own, guards against a wrong one.
    """
    ended = sa.or_(jobs.c.finished_at < before, jobs.c.finished_at.is_(None))
    return sa.and_(_ENDED, ended, jobs.c.created_at < before, jobs.c.removing_at.is_(None))
