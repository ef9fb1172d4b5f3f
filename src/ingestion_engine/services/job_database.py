"""Facts about the database of jobs, for whoever examines it: its version, its clock, what its account may do."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import audit_log, metadata

_PRIVILEGES: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
"""What the service needs of each of its tables, but for those that only grow."""

_GROWING: Final = ("SELECT", "INSERT")
"""What it needs of the audit log; without DELETE, its retention has to be off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """What a database tells of itself."""

    version: str
    """For example ``PostgreSQL 16.2``."""
    major: int
    """Major version of PostgreSQL or SQLite."""
    uses_tls: bool | None
    """Whether this connection is encrypted; None for a file."""
    ahead_s: float
    """Seconds by which its clock is ahead of this machine's; exact to half the duration of a request."""
    may_migrate: bool
    """Whether the account may create tables in the schema, and owns those that exist."""
    denied_tables: tuple[str, ...] = ()
    """Tables that the account may not read and write."""


def find_sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for one in memory, and for another database or text. Pure."""
    try:
        parsed = sa.engine.make_url(url)
    except sa.exc.ArgumentError:  # reported when it is opened
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    return Path(parsed.database)


async def read_facts(database: Database) -> DatabaseFacts:
    """Return the facts; changes nothing. Three or four queries.

    Raises:
        DatabaseUnavailable: the database does not respond or denies access.
    """
    async with database.reading() as connection:
        began = time.time()
        clock = (await connection.execute(sa.select(database.now()))).scalar_one()
        ahead_s = _to_seconds(clock) - (began + time.time()) / 2
        if database.is_sqlite:
            version = str((await connection.execute(sa.select(sa.func.sqlite_version()))).scalar_one())
            major = int(version.partition(".")[0])
            return DatabaseFacts(
                version=f"SQLite {version}", major=major, uses_tls=None, ahead_s=ahead_s, may_migrate=True
            )
        return await _read_postgres(connection, ahead_s)


async def _read_postgres(connection: AsyncConnection, ahead_s: float) -> DatabaseFacts:
    row = (
        await connection.execute(
            sa.text(
                "SELECT current_setting('server_version'), current_setting('server_version_num')::int, "
                "(SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), "
                "has_schema_privilege(current_schema(), 'CREATE')"
            )
        )
    ).one()
    tables = (
        await connection.execute(
            sa.text(
                "SELECT relname, pg_has_role(relowner, 'USAGE'), "
                "(SELECT bool_and(has_table_privilege(pg_class.oid, privilege)) "
                "FROM unnest(CASE WHEN relname = :growing THEN :needed_to_grow ELSE :needed END) AS privilege) "
                "FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
                "WHERE relkind IN ('r', 'p') AND nspname = current_schema() AND relname = ANY(:names)"
            ).bindparams(
                sa.bindparam("needed", list(_PRIVILEGES), type_=sa.ARRAY(sa.Text)),
                sa.bindparam("needed_to_grow", list(_GROWING), type_=sa.ARRAY(sa.Text)),
                sa.bindparam("growing", audit_log.name, type_=sa.Text),
                sa.bindparam("names", list(metadata.tables), type_=sa.ARRAY(sa.Text)),
            )
        )
    ).all()
    return DatabaseFacts(
        version=f"PostgreSQL {row[0]}",
        major=row[1] // 10_000,
        uses_tls=row[2],
        ahead_s=ahead_s,
        may_migrate=bool(row[3]) and all(owned for _, owned, _ in tables),
        denied_tables=tuple(sorted(name for name, _, allowed in tables if not allowed)),
    )


def _to_seconds(moment: dt.datetime | str) -> float:
    """Return a moment as a POSIX time; SQLite gives a text in UTC. Pure."""
    if isinstance(moment, str):
        moment = dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC)
    return moment.timestamp()
