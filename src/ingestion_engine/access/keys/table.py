"""API keys of the database, which all copies of the service share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ingestion_engine.access.keys.entries import ApiKey, KeyBook, require_whole
from ingestion_engine.access.keys.file import dump_entry
from ingestion_engine.access.principal import Principal
from ingestion_engine.domain.errors import DatabaseUnavailable, SubmissionError
from ingestion_engine.runtime.telemetry import context_without_fields, get_logger
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.key_store import KeyConflict, KeyRow, KeyStore

KNOWN_S: Final = 3.0
"""Age up to which keys are used without a query: a key that was revoked counts that much longer."""

MISSED_S: Final = 1.0
"""The same for a key that is not among them: it may have been made just now. Bounds what unknown keys cost."""

OUTAGE_S: Final = 60.0
"""Age up to which keys are used while the database is unavailable: nobody can revoke one meanwhile."""

CHANGES_MAX: Final = 10
"""Attempts to change the table against other editors."""

_log = get_logger(__name__)


class KeyTable:
    """The keys of the database; a ``CredentialSource``. For one event loop.

    All keys are read at once: they are few, and so the number of queries does not depend on what callers send.

    Args:
        now: Clock.
        clock: Monotonic seconds.
    """

    title: Final = "API key"

    def __init__(
        self,
        *,
        now: Callable[[], Moment] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store: KeyStore | None = None
        self._now = now
        self._clock = clock
        self._book = KeyBook()
        self._read_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    def use(self, store: KeyStore) -> None:
        """Read keys from a table from now on; the service has its database only once it runs."""
        self._store, self._read_at = store, None

    async def find(self, bearer: str) -> Principal | None:
        """Return the caller that has a key, or None.

        Raises:
            SubmissionError: "unauthenticated" (401), as ``KeyBook.find``.
            DatabaseUnavailable: the keys are not known.
        """
        if require_whole(bearer) is None:
            return None  # the database has only keys that were made here
        found = (await self._read(KNOWN_S)).find(bearer, self._now())
        return found or (await self._read(MISSED_S)).find(bearer, self._now())

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return True while the database has the key of a caller; also while it is unavailable, as last read."""
        with contextlib.suppress(DatabaseUnavailable):
            await self._read(KNOWN_S)
        return self._book.confirms(principal, self._now())

    async def recall(self, credential: str) -> Principal | None:
        """Return the caller of a secret, by its hash, as it is now. Raises DatabaseUnavailable."""
        return (await self._read(KNOWN_S)).recall(credential)

    async def _read(self, max_age_s: float) -> KeyBook:
        if self._age_s() > max_age_s:
            if self._reading is None or self._reading.done():
                # A task of its own: the caller that began it may be canceled, and others wait for it.
                self._reading = asyncio.create_task(self._read_now(), context=context_without_fields())
            try:
                await asyncio.shield(self._reading)
            except DatabaseUnavailable:
                if self._age_s() > OUTAGE_S:
                    raise
        return self._book

    def _age_s(self) -> float:
        return float("inf") if self._read_at is None else self._clock() - self._read_at

    async def _read_now(self) -> None:
        began = self._clock()
        if self._store is None:
            raise DatabaseUnavailable("database_unavailable", "The service has not opened its database yet.")
        rows = await self._store.list_rows()
        self._book, self._read_at = KeyBook(_parse_rows(rows)), began


_ENTRY: Final = TypeAdapter(ApiKey)


def _parse_rows(rows: Sequence[KeyRow]) -> list[ApiKey]:
    """Return the entries of rows; one that cannot be read is logged, and is no key."""
    entries = []
    for row in rows:
        try:
            entries.append(_ENTRY.validate_python({**row.entry, "id": row.id, "name": row.name}))
        except (TypeError, ValidationError):
            _log.error("API key not readable", extra={"key_id": row.id})  # without the reason, which has hashes
    return entries


class KeyDatabase:
    """Changes the keys of the database; a ``KeyStorage``. Safe in several processes at once.

    Args:
        store: The table.
    """

    place = "the database"

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    async def list_keys(self) -> Sequence[ApiKey]:
        """Return all entries, oldest first. Raises DatabaseUnavailable."""
        return _parse_rows(await self._store.list_rows())

    async def change(self, apply: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        """Store the entries that a function adds or replaces; none is removed.

        Raises:
            SubmissionError: "keys_busy" (409): others have changed the keys at the same time, again and again.
            DatabaseUnavailable: the database does not respond.
        """
        for _ in range(CHANGES_MAX):
            rows = await self._store.list_rows()
            revisions = {row.id: row.revision for row in rows}
            before = {entry.id: entry for entry in _parse_rows(rows)}
            after = KeyBook(apply(list(before.values()))).entries
            changed = [_make_row(entry, revisions) for entry in after if before.get(entry.id) != entry]
            try:
                await self._store.save(changed)
            except KeyConflict:
                continue
            return
        hint = "Try again."
        raise SubmissionError("keys_busy", "Others change the keys at the same time.", hint=hint, status=409)


def _make_row(entry: ApiKey, revisions: dict[str, int | None]) -> KeyRow:
    assert entry.id is not None  # keys of the database are made here
    fields = {name: value for name, value in dump_entry(entry).items() if name not in ("id", "name")}
    return KeyRow(id=entry.id, name=entry.name, entry=fields, revision=revisions.get(entry.id))
