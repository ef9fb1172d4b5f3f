"""API keys from a file.

The file (``INGEST_API__KEYS_FILE``) is a JSON list with hashes of keys::

    [{"name": "docs-team", "key_sha256": "<64 hex digits>", "buckets": ["docs-*"], "collections": ["handbook*"],
      "scopes": ["search", "read"]},
     {"name": "admin", "key_sha256": "<64 hex digits>"}]

``buckets`` and ``collections`` are shell globs; without them, everything is allowed. A key restricted by either sees
only the jobs that it submitted itself, and only the collections that it may use. Without ``scopes``, everything is
allowed but what operates the service, which requires an unrestricted key. The file is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import EVERYTHING, Scope, check_grants, default_scopes
from ingestion_engine.runtime.settings import SettingsError
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.validation import describe_faults

_log = get_logger(__name__)


class ApiKey(BaseModel):
    """Entry of the keys file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=128)
    key_sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    buckets: tuple[str, ...] = EVERYTHING
    collections: tuple[str, ...] = EVERYTHING
    scopes: frozenset[Scope] | None = None

    @model_validator(mode="after")
    def _grants_fit(self) -> ApiKey:
        check_grants(self.grants, self.buckets, self.collections)
        return self

    @property
    def grants(self) -> frozenset[Scope]:
        """The scopes of the key."""
        return default_scopes(self.buckets, self.collections) if self.scopes is None else self.scopes

    def as_principal(self) -> Principal:
        """Return the caller that has the key. Pure."""
        return Principal(
            name=self.name,
            kind="key",
            scopes=self.grants,
            buckets=self.buckets,
            collections=self.collections,
            credential=self.key_sha256.lower(),
        )


_KEYS = TypeAdapter(list[ApiKey])


class KeyRing:
    """The keys of a file; a ``CredentialSource``.

    Raises:
        SettingsError: the file cannot be read or is not a list of keys.
    """

    title: Final = "API key"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._keys: list[ApiKey] = []
        self._load()

    def __len__(self) -> int:
        return len(self._keys)

    async def find(self, bearer: str) -> Principal | None:
        """Return the caller that has a key, or None."""
        return self._find_hash(hashlib.sha256(bearer.encode()).hexdigest())

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return True while the file has the key of a caller."""
        return self._find_hash(principal.credential) is not None

    async def recall(self, credential: str) -> Principal | None:
        """Return the caller that has the key with a hash, or None."""
        return self._find_hash(credential)

    def _find_hash(self, digest: str) -> Principal | None:
        self._reload()
        for key in self._keys:
            if hmac.compare_digest(key.key_sha256.lower(), digest):
                return key.as_principal()
        return None

    def _load(self) -> None:
        path = self._path
        try:
            stat = path.stat()
            keys = _KEYS.validate_json(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"INGEST_API__KEYS_FILE: Cannot read {str(path)!r}: {error.strerror}.") from error
        except ValidationError as error:
            raise SettingsError(f"INGEST_API__KEYS_FILE: {describe_faults(error)}") from None
        names = [key.name for key in keys]
        if len(set(names)) != len(names):
            raise SettingsError("INGEST_API__KEYS_FILE: Two keys have the same name.")
        self._keys, self._read_at = keys, (stat.st_mtime_ns, stat.st_size)

    def _reload(self) -> None:
        """Read the file again when it has changed; an invalid file leaves the keys unchanged."""
        try:
            stat = self._path.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._read_at:
                self._load()
        except (OSError, SettingsError) as error:
            _log.warning("API keys not reloaded", extra={"error": str(error)})
