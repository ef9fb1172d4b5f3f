"""Entries of API keys, as a file or the database has them, and the callers that they stand for."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ingestion_engine.access.identity import unauthenticated
from ingestion_engine.access.keys.form import ID_PATTERN, Malformed, hash_key, read_key_id
from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import EVERYTHING, Scope, check_grants, default_scopes
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.timestamps import Moment, format_seconds
from ingestion_engine.services.audit.change import note_change

SECRETS_MAX: Final = 2
"""Valid secrets of one key: the new one, and the former one for as long as clients still have it."""

GLOBS_MAX: Final = 1000

RESERVED_PREFIX: Final = "oidc:"
"""Begins the names of people and programs that a provider vouches for; no key is called so."""

Hash = Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$", to_lower=True)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeySecret(_Entry):
    """One of the valid secrets of a key."""

    sha256: Hash = Field(repr=False)
    created_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    """When it stops to count; set by a rotation."""


class ApiKey(_Entry):
    """An API key. Entries of former releases have ``key_sha256`` instead of ``id`` and ``secrets``."""

    name: str = Field(min_length=1, max_length=128)
    """Owns the jobs that are submitted with the key."""
    id: str | None = Field(default=None, pattern=f"^{ID_PATTERN}$")
    key_sha256: Hash | None = Field(default=None, repr=False)
    secrets: tuple[KeySecret, ...] = Field(default=(), max_length=SECRETS_MAX)
    scopes: frozenset[Scope] | None = None
    """None means what keys of former releases may do."""
    buckets: tuple[Glob, ...] = Field(default=EVERYTHING, max_length=GLOBS_MAX)
    collections: tuple[Glob, ...] = Field(default=EVERYTHING, max_length=GLOBS_MAX)
    created_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> ApiKey:
        if (self.key_sha256 is None) == (not self.secrets):
            raise ValueError("a key has either 'key_sha256' or 'secrets'")
        if self.name.startswith(RESERVED_PREFIX):
            raise ValueError(f"the name of a key does not begin with {RESERVED_PREFIX!r}")
        check_grants(self.grants, self.buckets, self.collections)
        return self

    @property
    def grants(self) -> frozenset[Scope]:
        """The scopes of the key."""
        return default_scopes(self.buckets, self.collections) if self.scopes is None else self.scopes

    def ends_by(self, moment: Moment) -> bool:
        """Return whether the key does not count any more at a moment: it is revoked or has expired by then. Pure."""
        return self.revoked_at is not None or (self.expires_at is not None and self.expires_at <= moment)

    @property
    def all_secrets(self) -> tuple[KeySecret, ...]:
        """The secrets of the key, also that of an entry of a former release."""
        return self.secrets if self.key_sha256 is None else (KeySecret(sha256=self.key_sha256),)

    def as_principal(self, secret: KeySecret) -> Principal:
        """Return the caller that has a secret of the key. Pure."""
        ends = [moment for moment in (self.expires_at, secret.expires_at) if moment is not None]
        return Principal(
            name=self.name,
            kind="key",
            scopes=self.grants,
            buckets=self.buckets,
            collections=self.collections,
            expires_at=min(ends, default=None),
            key_id=self.id,
            credential=secret.sha256,
        )


def require_whole(key: str) -> str | None:
    """Return the id of a key, None for a text of another form. Pure: refuses a damaged key without any look-up.

    Raises:
        SubmissionError: "unauthenticated" (401): characters are missing or wrong.
    """
    key_id = read_key_id(key)
    if key_id is Malformed.DAMAGED:
        hint = "Copy the whole key again, as `ingest keys create` has shown it."
        raise unauthenticated("The API key is damaged: characters are missing or wrong.", hint=hint)
    return None if isinstance(key_id, Malformed) else key_id


class KeyBook:
    """Some entries, in which the caller of a key is found. Immutable.

    Raises:
        ValueError: two entries have the same name, id or secret.
    """

    def __init__(self, entries: Iterable[ApiKey] = ()) -> None:
        self.entries: Sequence[ApiKey] = tuple(entries)
        self._by_id = {entry.id: entry for entry in self.entries if entry.id is not None}
        ids = [entry.id for entry in self.entries if entry.id is not None]
        hashes = [secret.sha256 for entry in self.entries for secret in entry.all_secrets]
        for what, values in (("name", [entry.name for entry in self.entries]), ("id", ids), ("secret", hashes)):
            if len(set(values)) != len(values):
                raise ValueError(f"Two keys have the same {what}.")

    def find(self, key: str, now: Moment) -> Principal | None:
        """Return the caller that has a key, or None.

        The audit log learns whose key it is also where it is refused: a revoked key that is still used may have leaked.

        Raises:
            SubmissionError: "unauthenticated" (401): the key is damaged, has expired or was revoked; the reason is told
                to nobody but who has the right secret.
        """
        key_id = require_whole(key)
        if key_id is not None and key_id not in self._by_id:
            return None
        found = self._match(self.entries if key_id is None else (self._by_id[key_id],), hash_key(key))
        if found is None:
            return None
        entry, secret = found
        if entry.revoked_at is not None:
            raise _refuse(entry, f"API key {entry.name!r} was revoked.", hint="Use another key.")
        principal = entry.as_principal(secret)
        if principal.expires_at is not None and principal.expires_at <= now:
            raise _refuse(
                entry,
                f"API key {entry.name!r} expired at {format_seconds(principal.expires_at)}.",
                hint="Use the key's new secret, or ask the operator for a key: `ingest keys rotate`.",
            )
        return principal

    def recall(self, digest: str) -> Principal | None:
        """Return the caller of a secret, by its hash, as it is now; None when it was revoked or is unknown. Pure."""
        found = self._match(self.entries, digest)
        if found is None or found[0].revoked_at is not None:
            return None
        return found[0].as_principal(found[1])

    def confirms(self, principal: Principal, now: Moment) -> bool:
        """Return whether a caller's key counts now, and allows just what it did when the caller was found. Pure.

        A key may have got an end meanwhile: by a rotation, or by its entry.
        """
        present = self.recall(principal.credential)
        if present is None or (present.expires_at is not None and present.expires_at <= now):
            return False
        return present.has_rights_of(principal)

    @staticmethod
    def _match(entries: Iterable[ApiKey], digest: str) -> tuple[ApiKey, KeySecret] | None:
        found = None
        for entry in entries:
            for secret in entry.all_secrets:
                if hmac.compare_digest(secret.sha256, digest):  # all are compared: the time tells nothing
                    found = entry, secret
        return found


def _refuse(entry: ApiKey, message: str, *, hint: str) -> SubmissionError:
    """Return the error of who has the right secret of a key that does not count any more."""
    note_change(who=entry.name, kind="key", key_id=entry.id)
    return unauthenticated(message, hint=hint)
