"""The schema of the database of jobs: its version, and its migration by one copy of the service at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from ingestion_engine.domain.errors import DatabaseUnavailable, FatalError
from ingestion_engine.runtime.settings import DatabaseSettings
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import schema_readers

MIGRATIONS: Final = Path(__file__).parent / "migrations"

WAIT_S: Final = 60.0
"""Time that a migration waits for other transactions to release the tables; a backup may hold them for longer."""

LOCK_TIMEOUT_S: Final = 2.0
"""Time that one try of a migration waits for a lock. All requests to the table wait behind it, so it is short."""

RETRY_S: Final = 1.0
"""Pause between two tries."""

_MIGRATION_LOCK: Final = 7_241_609_332
"""Number of the PostgreSQL advisory lock that serialises migrations of several copies of the service; an arbitrary
constant."""

_LOCK_NOT_AVAILABLE: Final = "55P03"
"""SQLSTATE of a statement that ``lock_timeout`` ended."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """What a migration has changed."""

    before: str | None
    """Version of the schema before; None for an empty database."""
    after: str
    """Version of the schema now."""


class _Locked(Exception):
    """Other transactions hold locks that the migration requires."""


def newest_version() -> str:
    """Return the version of the schema that this version of the service uses."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def migrate_schema(
    url: str,
    *,
    ca_file: Path | None = None,
    settings: DatabaseSettings | None = None,
    wait_s: float = 0.0,
) -> SchemaChange:
    """Migrate the schema to the newest version; nothing happens when it has it. Safe in several processes at once.

    Args:
        url: As for ``Database.open``, like the next two.
        ca_file: Authorities.
        settings: Connections; None means the defaults.
        wait_s: Seconds to wait for a database that is unavailable. Locks of other transactions are waited for
            in any case, ``WAIT_S`` or longer.

    Raises:
        DatabaseUnavailable: the database does not respond, denies access, or other transactions hold its tables.
        FatalError: "database_url_invalid"; "database_newer": a later version of the service has migrated it.
    """
    begin = time.monotonic()
    after = newest_version()
    async with contextlib.aclosing(Database.open(url, ca_file=ca_file, settings=settings)) as database:
        while True:
            try:
                before = await read_version(database)
                if before == after or await _is_usable(database, before):
                    return SchemaChange(before, before or after)
                unlimited = Database.open(url, ca_file=ca_file, settings=settings, statement_timeout_s=None)
                async with contextlib.aclosing(unlimited), unlimited.writing() as connection:
                    before = await connection.run_sync(_migrate)
            except _Locked:
                waited_s = time.monotonic() - begin
                if waited_s >= max(wait_s, WAIT_S):
                    raise _locked(database, waited_s) from None
                _log.warning("migration waits for other transactions", extra={"waited_s": round(waited_s, 1)})
            except DatabaseUnavailable:
                if time.monotonic() - begin + RETRY_S > wait_s:
                    raise
            else:
                if before is None or before in _list_versions():
                    _log.info("database migrated", extra={"from": before, "to": after})
                    return SchemaChange(before, after)
            await asyncio.sleep(RETRY_S)


async def revert_schema(
    url: str, version: str, *, ca_file: Path | None = None, settings: DatabaseSettings | None = None
) -> SchemaChange:
    """Bring the schema back to the version of a former release, so that it can start again. One transaction.

    What only later releases know is lost; jobs stay. Every copy of the service must have been stopped.

    Args:
        url: As for ``Database.open``, like ``ca_file`` and ``settings``.
        version: Version of the schema.
        ca_file: Authorities.
        settings: Connections; None means the defaults.

    Raises:
        DatabaseUnavailable: the database does not respond, denies access, or other transactions hold its tables.
        FatalError: "database_url_invalid"; "database_newer"; "schema_unknown": there is no such former version.
    """
    unlimited = Database.open(url, ca_file=ca_file, settings=settings, statement_timeout_s=None)
    async with contextlib.aclosing(unlimited) as database:
        try:
            async with database.writing() as connection:
                before = await connection.run_sync(lambda one: _migrate(one, back_to=version))
        except _Locked:
            raise _locked(database, LOCK_TIMEOUT_S) from None
    _log.warning("schema of the database brought back", extra={"from": before, "to": version})
    return SchemaChange(before, version)


async def check_schema(database: Database) -> None:
    """Return when the schema has the version of this service; changes nothing.

    Raises:
        DatabaseUnavailable: the database does not respond or denies access.
        FatalError: "database_older" or "database_newer".
    """
    found, wanted = await read_version(database), newest_version()
    if found == wanted or await _is_usable(database, found):
        return
    raise FatalError(
        "database_older",
        f"The schema of the database of jobs {database.place} has version {found or 'none'}; this service requires "
        f"{wanted}.",
        hint="Run `ingest migrate` with an account that may change tables, or set INGEST_DATABASE__MIGRATE=true.",
    )


async def _is_usable(database: Database, version: str | None) -> bool:
    """Return whether a later release has migrated the schema, and this one can use it all the same.

    Raises:
        FatalError: "database_newer": it cannot.
    """
    known = _list_versions()
    if version is None or version in known:
        return False
    async with database.reading() as connection:
        oldest = await connection.run_sync(_read_oldest)
    if oldest not in known:
        raise _newer(version)
    _log.warning("the database is of a later version, which this one can use", extra={"version": version})
    return True


def _read_oldest(connection: sa.Connection) -> str | None:
    """Return the version of the oldest release that can use the schema; None when it does not say."""
    if not sa.inspect(connection).has_table(schema_readers.name):
        return None
    oldest: str | None = connection.execute(sa.select(schema_readers.c.oldest)).scalar()
    return oldest


async def read_version(database: Database) -> str | None:
    """Return the version of the schema; None for an empty database. Raises DatabaseUnavailable."""
    async with database.reading() as connection:
        return await connection.run_sync(lambda one: MigrationContext.configure(one).get_current_revision())


def _migrate(connection: sa.Connection, *, back_to: str | None = None) -> str | None:
    """Run all pending migrations on an open connection, in its transaction; return the version before.

    Args:
        connection: The connection.
        back_to: Former version to which the schema is brought back instead.

    Raises:
        FatalError: "database_newer"; "schema_unknown": both only for ``back_to``.
        _Locked: other transactions hold the tables.
    """
    with _noticing_locks():
        if connection.dialect.name == "postgresql":
            # Also where the account has time limits: a migration that is cut off would never get further.
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S * 1000:.0f}ms'"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATION_LOCK})
        else:
            # Python's driver begins no transaction for statements that change the schema: without this, a process that
            # ends half-way, or another one, would find half of a migration.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        before = MigrationContext.configure(connection).get_current_revision()
        config = _config()
        config.attributes["connection"] = connection
        known = before is None or before in _list_versions()
        if back_to is None:
            if known:  # else a later release was faster
                command.upgrade(config, "head")
        elif not known:
            raise _newer(str(before))
        elif before is None or back_to not in _list_versions() or back_to > before:
            raise FatalError(
                "schema_unknown",
                f"The schema of the database of jobs has version {before or 'none'}; {back_to!r} is no former one.",
                hint=f"Use one of {', '.join(sorted(_list_versions()))}.",
            )
        else:
            command.downgrade(config, back_to)
    return before


@contextlib.contextmanager
def _noticing_locks() -> Iterator[None]:
    """Turn the error of a lock that was not acquired in time into ``_Locked``."""
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise _Locked from error
        raise


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _list_versions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _locked(database: Database, waited_s: float) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        "database_unavailable",
        f"The database of jobs {database.place} cannot be migrated: other transactions have locked its tables for "
        f"{waited_s:.0f} s.",
        hint="Wait for backups and other long transactions to end (see `pg_stat_activity`), then try again.",
    )


def _newer(found: str) -> FatalError:
    return FatalError(
        "database_newer",
        f"The schema of the database of jobs is of a later version of the service, {found!r}: this one cannot use it.",
        hint="Install the newest version that has used the database, or set INGEST_DATABASE_URL to another one.",
    )
