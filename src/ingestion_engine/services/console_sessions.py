"""The table of console sessions, which all copies of the service share, and what the provider says of their ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import console_sessions as sessions
from ingestion_engine.services.job_records import provider_log_outs as log_outs
from ingestion_engine.services.job_store import TURN_IDLE_MS

_TURN_LOCK: Final = 7_241_609_333
"""Number of the PostgreSQL advisory lock that serialises log-ins and log-outs at the provider; an arbitrary
constant."""


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
    provider_subject: str | None = None
    """Hash of issuer and subject of the ID token; None for other kinds, and for sessions of former releases."""
    provider_session: str | None = None
    """Hash of issuer and session of the ID token; None where it names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLogOut:
    """A log-out at the provider, of one session there or of all sessions of a person."""

    id: str
    """Hash of issuer and id of the log-out token."""
    subject: str | None
    """Hash, as ``SessionRecord.provider_subject``; None where the token names nobody."""
    session: str | None
    """Hash, as ``SessionRecord.provider_session``; None means all sessions of the subject."""
    at: Moment
    """When the provider issued the token, by its clock."""
    expires_at: Moment
    """When it need not be remembered any longer."""


class SessionStore:
    """Reads and changes the table. Every method raises DatabaseUnavailable while the database does not respond.

    Args:
        database: The database of jobs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()

    async def insert(self, record: SessionRecord, *, keep: int, issued_at: Moment | None = None) -> bool:
        """Add a session, and remove all of the same principal but the ``keep`` that were seen last.

        Args:
            record: The session.
            keep: Maximum number of sessions of the principal.
            issued_at: When the provider issued the ID token, by its clock; None for a session without one.

        Returns:
            False when the provider has logged the person out since then: nothing was added.
        """
        own = (sessions.c.owner == record.owner, sessions.c.kind == record.kind)
        newest = sa.select(sessions.c.id).where(*own, sessions.c.id != record.id).order_by(sessions.c.seen_at.desc())
        async with self._database.writing() if issued_at is None else self._writing_in_turn() as connection:
            await connection.execute(sa.insert(sessions).values(**asdict(record)))
            if issued_at is not None and await _is_logged_out(connection, record, issued_at):
                await connection.execute(sa.delete(sessions).where(sessions.c.id == record.id))
                return False
            others = (await connection.execute(newest)).scalars().all()
            surplus = others[keep - 1 :]
            if surplus:
                await connection.execute(sa.delete(sessions).where(sessions.c.id.in_(surplus)))
        return True

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
        """Remove the sessions that have ended by time, and log-outs that need not be remembered; return the former."""
        ended = sa.or_(sessions.c.expires_at <= now, sessions.c.seen_at <= idle_since)
        async with self._database.changing() as connection:
            await connection.execute(sa.delete(log_outs).where(log_outs.c.expires_at <= now))
            return (await connection.execute(sa.delete(sessions).where(ended))).rowcount

    async def knows_log_out(self, log_out_id: str) -> bool:
        """Return whether a log-out was received already."""
        async with self._database.reading() as connection:
            found = await connection.execute(sa.select(log_outs.c.id).where(log_outs.c.id == log_out_id))
            return found.first() is not None

    async def list_owners(self, log_out: ProviderLogOut) -> Sequence[str]:
        """Return the names of the principals whose sessions a log-out ends."""
        query = sa.select(sessions.c.owner).where(_ended_by(log_out)).distinct().order_by(sessions.c.owner)
        async with self._database.reading() as connection:
            return (await connection.execute(query)).scalars().all()

    async def log_out(self, log_out: ProviderLogOut) -> Sequence[str] | None:
        """Remove the sessions that a log-out ends, and remember it; return their ids. One transaction.

        Returns None, and removes nothing, when it was received already.
        """
        try:
            async with self._writing_in_turn() as connection:
                await connection.execute(sa.insert(log_outs).values(**asdict(log_out)))
                ended = (await connection.execute(sa.select(sessions.c.id).where(_ended_by(log_out)))).scalars().all()
                await connection.execute(sa.delete(sessions).where(_ended_by(log_out)))
        except IntegrityError:
            return None
        return ended

    @contextlib.asynccontextmanager
    async def _writing_in_turn(self) -> AsyncIterator[AsyncConnection]:
        """Write while no other log-in or log-out at the provider is being written: one of two that meet sees the other.

        Otherwise, a log-in that is being completed during the log-out would outlive it. SQLite has one writer anyway.
        Those of this copy take turns here, so that only one of them has a connection while it waits for other copies.
        """
        async with self._turn, self._database.writing(idle_ms=TURN_IDLE_MS) as connection:
            if not self._database.is_sqlite:
                await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": _TURN_LOCK})
            yield connection


def _ended_by(log_out: ProviderLogOut) -> sa.ColumnElement[bool]:
    """Return the condition on sessions that a log-out ends. Pure.

    Where it names a session, that one only; of the person, also those whose ID token named no session.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    if log_out.session is not None:
        conditions.append(sessions.c.provider_session == log_out.session)
    if log_out.subject is not None:
        of_person = sessions.c.provider_subject == log_out.subject
        unnamed = sessions.c.provider_session.is_(None)
        conditions.append(of_person if log_out.session is None else sa.and_(of_person, unnamed))
    return sa.or_(sa.false(), *conditions)


async def _is_logged_out(connection: AsyncConnection, record: SessionRecord, issued_at: Moment) -> bool:
    """Return whether a log-out that is remembered ends a session, and is not older than its ID token."""
    ends: sa.ColumnElement[bool] = log_outs.c.subject == record.provider_subject
    if record.provider_session is not None:
        of_session = log_outs.c.session == record.provider_session
        ends = sa.or_(of_session, sa.and_(ends, log_outs.c.session.is_(None)))
    found = await connection.execute(sa.select(log_outs.c.id).where(ends, log_outs.c.at >= issued_at).limit(1))
    return found.first() is not None
