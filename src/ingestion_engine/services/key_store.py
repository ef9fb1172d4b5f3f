"""The table of API keys, which all copies of the service share."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ingestion_engine.domain.audit import Outcome
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.audit.entries import AuditEntry, new_entry_id
from ingestion_engine.services.audit.log import insert_entry
from ingestion_engine.services.database import Database
from ingestion_engine.services.job_records import api_keys


class KeyConflict(Exception):
    """Somebody else has changed the rows since they were read, or has taken a name."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One row."""

    id: str
    name: str
    entry: Mapping[str, Any]
    """Everything else, as JSON types: hashes of secrets, scopes, globs, times."""
    revision: int | None
    """Number of changes, as read; None for a new row."""

    def __repr__(self) -> str:
        return f"KeyRow(id={self.id!r}, name={self.name!r})"  # hashes are no secrets, but nobody needs them


class KeyStore:
    """Reads and changes the table. Every method raises DatabaseUnavailable while the database does not respond.

    Args:
        database: The database of jobs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_rows(self) -> Sequence[KeyRow]:
        """Return all rows in the order in which they were added. One query."""
        query = sa.select(api_keys.c.id, api_keys.c.name, api_keys.c.entry, api_keys.c.revision)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.order_by(api_keys.c.added_at, api_keys.c.id))).all()
        return [KeyRow(*row) for row in rows]

    async def save(self, rows: Sequence[KeyRow]) -> None:
        """Store rows in one transaction: new ones, and those that are as they were read; each with its audit entry.

        Raises:
            KeyConflict: one is not, or a name is taken; nothing was stored.
        """
        try:
            async with self._database.writing() as connection:
                for row in rows:
                    await connection.execute(insert_entry(_describe_change(row)))
                    if row.revision is None:
                        added = {"id": row.id, "name": row.name, "entry": dict(row.entry), "added_at": utc_now()}
                        await connection.execute(sa.insert(api_keys).values(**added))
                        continue
                    same = (api_keys.c.id == row.id, api_keys.c.revision == row.revision)
                    change = sa.update(api_keys).where(*same)
                    changed = await connection.execute(
                        change.values(entry=dict(row.entry), revision=api_keys.c.revision + 1)
                    )
                    if changed.rowcount != 1:
                        raise KeyConflict
        except IntegrityError as error:
            raise KeyConflict from error


_SHOWN = ("scopes", "buckets", "collections", "expires_at")
"""What the audit log has of an entry: no hashes."""


def _describe_change(row: KeyRow) -> AuditEntry:
    changed = "revoke" if row.entry.get("revoked_at") else "rotate"
    return describe_change("create" if row.revision is None else changed, row.name, row.entry)


def describe_change(command: str, name: str, fields: Mapping[str, Any]) -> AuditEntry:
    """Return the audit entry of a changed key: keys are changed by a command of somebody on a machine.

    Args:
        command: The command: ``create``, ``rotate`` or ``revoke``.
        name: Name of the key.
        fields: Fields of the key's entry.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may give its user no name
        user = ""
    details = {field: fields[field] for field in _SHOWN if fields.get(field) is not None}
    return AuditEntry(
        id=new_entry_id(),
        at=utc_now(),
        outcome=Outcome.DONE,
        operation=f"keys.{command}",
        who=user,
        kind="command",
        address=socket.gethostname(),
        subject=name,
        details={
            field: ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            for field, value in details.items()
        },
    )
