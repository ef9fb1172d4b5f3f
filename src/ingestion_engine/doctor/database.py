"""The database of jobs: reachable, its schema, what the account may do, TLS, and its clock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from ingestion_engine.doctor.context import Context, timed
from ingestion_engine.doctor.findings import Finding, fail, fail_by, ok, warn
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_database import DatabaseFacts, find_sqlite_file, read_facts
from ingestion_engine.services.job_schema import check_schema, newest_version, read_version

SKEW_S: Final = 10.0
"""Difference of clocks that is worth a warning. The service goes by the database's clock; logs of several machines are
hard to compare from a few seconds on."""


async def check_database(context: Context) -> list[Finding]:
    """Connect and compare; creates no file and no table."""
    settings = context.settings
    url = settings.sqlalchemy_url
    database_file = find_sqlite_file(url)
    if database_file is not None and not database_file.exists():
        return [_describe_missing_file(database_file), *_list_warnings(context, None)]
    database = Database.open(url, ca_file=settings.tls.ca_file)
    try:
        facts = await read_facts(database)
        _, latency_ms = await timed(database.ping)
        found = await read_version(database)
        findings = [await _describe(database, facts, found, latency_ms=latency_ms, migrates=settings.database.migrate)]
    finally:
        await database.close()
    return findings + _list_warnings(context, facts)


async def _describe(
    database: Database, facts: DatabaseFacts, found: str | None, *, latency_ms: float, migrates: bool
) -> Finding:
    """Return the result about version, schema and permissions."""
    named: dict[str, Any] = {
        "version": facts.version,
        "schema": found,
        "newest_schema": newest_version(),
        "tls": facts.uses_tls,
    }
    try:
        await check_schema(database)
    except FatalError as error:
        if error.code != "database_older":
            return fail_by(error, "Install the version of the service that has used the database.", **named)
        state = f"{facts.version}, schema {found or 'empty'}, newest {newest_version()}"
        if not migrates:
            hint = "Run `ingest migrate` with an account that owns the tables, or set INGEST_DATABASE__MIGRATE=true."
            return fail(f"{state}; the service would refuse to start.", hint, code=error.code, **named)
        if not facts.may_migrate:
            hint = "Run `ingest migrate` with an account that owns the tables and may create some."
            return fail(f"{state}; the account may not migrate it.", hint, code=error.code, **named)
        hint = "Start the service, which migrates it, or run `ingest migrate` before."
        return warn(f"{state}: it will be migrated", hint, latency_ms=latency_ms, **named)
    if facts.denied_tables:
        hint = "Grant SELECT, INSERT, UPDATE and DELETE on these tables to the account of INGEST_DATABASE_URL."
        denied = ", ".join(facts.denied_tables)
        return fail(f"{facts.version}: the account may not read and write {denied}.", hint, **named)
    tls = {True: ", TLS", False: ", no TLS", None: ""}[facts.uses_tls]
    return ok(f"{facts.version}{tls}, schema {found}", latency_ms=latency_ms, **named)


def _list_warnings(context: Context, facts: DatabaseFacts | None) -> list[Finding]:
    findings = []
    if context.in_kubernetes and find_sqlite_file(context.settings.sqlalchemy_url) is not None:
        findings.append(
            warn(
                "SQLite in a pod: jobs are lost with its volume, and a second copy of the service has other jobs.",
                "Set INGEST_DATABASE_URL to a PostgreSQL.",
                target="kind",
            )
        )
    if facts is not None and abs(facts.ahead_s) > SKEW_S and not facts.version.startswith("SQLite"):
        side = "ahead of" if facts.ahead_s > 0 else "behind"
        findings.append(
            warn(
                f"The clock of the database is {abs(facts.ahead_s):.0f} s {side} that of this machine.",
                "Synchronise both clocks by NTP.",
                target="clock",
                ahead_s=round(facts.ahead_s, 1),
            )
        )
    return findings


def _describe_missing_file(path: Path) -> Finding:
    """Return the result for a SQLite file that does not exist yet; changes nothing."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        hint = "Allow this user to write there, or set INGEST_DATA_DIR or INGEST_DATABASE_URL."
        return fail(f"The directory {str(folder)!r} of the SQLite file cannot be written.", hint)
    return ok(f"SQLite file {str(path)!r} will be created by the service", exists=False)
