"""The table of console sessions, which all copies of the service share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import console_sessions as sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """One row."""

    id: str
    """SHA-256, in hex digits, of the secret in the cookie."""
    kind: str
    """Kind of the principal: ``key`` or ``oidc``."""
    owner: str
    """Name of the principal."""
    credential: str | None = None
    """SHA-256 of the API key; None for other kinds."""
    claims: Mapping[str, Any] | None = None
    """Claims of the ID token that the rules use; None for other kinds."""
    created_at: Moment
    seen_at: Moment
    """Time of the last request, to about a minute."""
    expires_at: Moment


class SessionStore:
    """Reads and changes the table. Every method raises DatabaseUnavailable while the database does not respond.

    Args:
        database: The database of jobs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, record: SessionRecord, *, keep: int) -> None:
        """Add a session, and remove all of the same principal but the ``keep`` that were seen last."""
        own = (sessions.c.owner == record.owner, sessions.c.kind == record.kind)
        newest = sa.select(sessions.c.id).where(*own, sessions.c.id != record.id).order_by(sessions.c.seen_at.desc())
        async with self._database.writing() as connection:
            await connection.execute(sa.insert(sessions).values(**asdict(record)))
            others = (await connection.execute(newest)).scalars().all()
            surplus = others[keep - 1 :]
            if surplus:
                await connection.execute(sa.delete(sessions).where(sessions.c.id.in_(surplus)))

    async def find(self, session_id: str) -> SessionRecord | None:
        """Return a session, whether it has ended by time or not. One query by the primary key."""
        async with self._database.reading() as connection:
            row = (await connection.execute(sa.select(sessions).where(sessions.c.id == session_id))).first()
        return None if row is None else SessionRecord(**row._asdict())

    async def touch(self, session_id: str, at: Moment) -> None:
        """Note a request of a session."""
        async with self._database.changing() as connection:
            await connection.execute(sa.update(sessions).where(sessions.c.id == session_id).values(seen_at=at))

    async def delete(self, session_id: str) -> None:
        """Remove a session, if there is one."""
        async with self._database.changing() as connection:
            await connection.execute(sa.delete(sessions).where(sessions.c.id == session_id))

    async def delete_ended(self, *, now: Moment, idle_since: Moment) -> int:
        """Remove the sessions that have ended by time; return their number."""
        ended = sa.or_(sessions.c.expires_at <= now, sessions.c.seen_at <= idle_since)
        async with self._database.changing() as connection:
            return (await connection.execute(sa.delete(sessions).where(ended))).rowcount
