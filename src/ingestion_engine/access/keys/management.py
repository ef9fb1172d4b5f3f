"""Makes, rotates and revokes API keys, wherever they are stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from pydantic import ValidationError

from ingestion_engine.access.keys.entries import ApiKey, KeySecret
from ingestion_engine.access.keys.form import hash_key, make_key, make_key_id
from ingestion_engine.access.scopes import EVERYTHING, Scope
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.runtime.validation import describe_faults

OVERLAP: Final = dt.timedelta(hours=24)
"""Time for which the former secret still counts after a rotation, so that clients change over one by one."""


class KeyStorage(Protocol):
    """Where keys are stored."""

    place: str
    """For messages."""

    async def list_keys(self) -> Sequence[ApiKey]:
        """Return all entries."""
        ...

    async def change(self, apply: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        """Replace all entries by the result of a function, which may be called again after a conflict."""
        ...


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key with its new secret, which nobody can read again."""

    entry: ApiKey
    key: str = field(repr=False)


async def create_key(
    storage: KeyStorage,
    name: str,
    *,
    scopes: frozenset[Scope],
    buckets: tuple[str, ...] = EVERYTHING,
    collections: tuple[str, ...] = EVERYTHING,
    expires_at: Moment | None = None,
    now: Callable[[], Moment] = utc_now,
) -> NewKey:
    """Store a new key and return it.

    Raises:
        SubmissionError: "key_invalid": for example, the name or the globs; "key_name_taken": also by a revoked key,
            whose jobs the new one would own.
    """
    key_id = make_key_id()
    key = make_key(key_id)
    created_at = now().replace(microsecond=0)
    try:
        entry = ApiKey(
            name=name,
            id=key_id,
            secrets=(KeySecret(sha256=hash_key(key), created_at=created_at),),
            scopes=scopes,
            buckets=buckets,
            collections=collections,
            created_at=created_at,
            expires_at=expires_at,
        )
    except ValidationError as error:
        raise SubmissionError("key_invalid", f"The key cannot be made: {describe_faults(error)}.") from None

    def add(entries: Sequence[ApiKey]) -> Sequence[ApiKey]:
        refuse_taken(entries, name)
        return [*entries, entry]

    await storage.change(add)
    return NewKey(entry, key)


def refuse_taken(entries: Sequence[ApiKey], name: str) -> None:
    """Return when no key has a name. Pure. Raises SubmissionError "key_name_taken"."""
    if any(other.name == name for other in entries):
        hint = "Choose another name; `ingest keys rotate` gives a key a new secret."
        raise SubmissionError("key_name_taken", f"There is a key {name!r} already.", hint=hint, status=409)


async def rotate_key(
    storage: KeyStorage, which: str, *, overlap: dt.timedelta = OVERLAP, now: Callable[[], Moment] = utc_now
) -> NewKey:
    """Give a key a new secret; the newest former one counts for ``overlap`` longer, older ones no more.

    Raises:
        SubmissionError: "key_not_found"; "key_revoked".
    """
    moment = now().replace(microsecond=0)
    made: list[NewKey] = []

    def rotate(entry: ApiKey) -> ApiKey:
        if entry.revoked_at is not None:
            hint = "Create a key with another name."
            raise SubmissionError("key_revoked", f"Key {entry.name!r} was revoked.", hint=hint, status=409)
        key_id = entry.id or make_key_id()
        key = make_key(key_id)
        secret = KeySecret(sha256=hash_key(key), created_at=moment)
        former = entry.all_secrets[0]
        ends = moment + overlap
        if former.expires_at is not None:
            ends = min(ends, former.expires_at)
        kept = (former.model_copy(update={"expires_at": ends}),) if ends > moment else ()
        update = {"id": key_id, "secrets": (secret, *kept), "key_sha256": None}
        rotated = ApiKey.model_validate({**dict(entry), **update})
        made[:] = [NewKey(rotated, key)]
        return rotated

    await _change_one(storage, which, rotate)
    return made[0]


async def revoke_key(storage: KeyStorage, which: str, *, now: Callable[[], Moment] = utc_now) -> ApiKey:
    """Revoke a key for good; its entry stays, so that its name is not used again. Idempotent.

    Raises:
        SubmissionError: "key_not_found".
    """
    moment = now().replace(microsecond=0)
    revoked: list[ApiKey] = []

    def revoke(entry: ApiKey) -> ApiKey:
        revoked[:] = [entry if entry.revoked_at is not None else entry.model_copy(update={"revoked_at": moment})]
        return revoked[0]

    await _change_one(storage, which, revoke)
    return revoked[0]


async def _change_one(storage: KeyStorage, which: str, change: Callable[[ApiKey], ApiKey]) -> None:
    def apply(entries: Sequence[ApiKey]) -> Sequence[ApiKey]:
        if not any(which in (entry.name, entry.id) for entry in entries):
            raise SubmissionError(
                "key_not_found",
                f"There is no key {which!r} in {storage.place}.",
                hint="List the keys with `ingest keys list`.",
                status=404,
            )
        # A name counts more than an id: one may look like the other.
        by_name = any(which == entry.name for entry in entries)
        return [change(entry) if which == (entry.name if by_name else entry.id) else entry for entry in entries]

    await storage.change(apply)
