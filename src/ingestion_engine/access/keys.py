"""API keys from a file, and the buckets and collections that each key may use.

The file (``INGEST_API__KEYS_FILE``) is a JSON list with hashes of keys::

    [{"name": "docs-team", "key_sha256": "<64 hex digits>", "buckets": ["docs-*"], "collections": ["handbook*"]},
     {"name": "admin", "key_sha256": "<64 hex digits>"}]

``buckets`` and ``collections`` are shell globs; without them, everything is allowed. A key restricted by either sees
only the jobs that it submitted itself, and only the collections that it may use. The file is read again when it
changes. Without a file there is no authentication.
"""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import JobRequest
from ingestion_engine.runtime.settings import SettingsError
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.validation import describe_faults
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.jobs import job_not_found

_log = get_logger(__name__)

_EVERYTHING = ("*",)


class ApiKey(BaseModel):
    """Entry of the keys file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=128)
    key_sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    buckets: tuple[str, ...] = _EVERYTHING
    collections: tuple[str, ...] = _EVERYTHING


_KEYS = TypeAdapter(list[ApiKey])


@dataclass(frozen=True, slots=True)
class Principal:
    """Caller of the API. Without authentication, every caller is the same, unnamed and unrestricted."""

    name: str = ""
    buckets: tuple[str, ...] = _EVERYTHING
    collections: tuple[str, ...] = _EVERYTHING

    @property
    def is_restricted(self) -> bool:
        """True when some buckets or collections are not allowed."""
        return "*" not in self.buckets or "*" not in self.collections

    @property
    def sees_jobs_of(self) -> str | None:
        """Owner of the jobs that the caller may see; None means all jobs."""
        return self.name if self.is_restricted else None

    def may_use_collection(self, collection: str) -> bool:
        """Return True when a collection is allowed. Pure."""
        return any(fnmatch.fnmatchcase(collection, glob) for glob in self.collections)

    def check_request(self, request: JobRequest) -> None:
        """Check that a request is allowed. Raises SubmissionError "not_allowed" (403)."""
        if not any(fnmatch.fnmatchcase(request.source.bucket, glob) for glob in self.buckets):
            raise _not_allowed(f"This API key may not read bucket {request.source.bucket!r}.", "source.bucket")
        for name, field in ((request.alias, "alias"), (request.collection, "collection")):
            # A collection that the service names belongs to the alias.
            if name and not self.may_use_collection(name):
                raise _not_allowed(f"This API key may not use {field} {name!r}.", field)

    def check_collection(self, collection: str) -> None:
        """Check that a collection is allowed. Raises SubmissionError "not_allowed" (403)."""
        if not self.may_use_collection(collection):
            raise _not_allowed(f"This API key may not use collection {collection!r}.", "collection")

    def check_operator(self) -> None:
        """Check that the caller may operate the whole service. Raises SubmissionError "not_allowed" (403)."""
        if self.is_restricted:
            raise SubmissionError(
                "not_allowed",
                "This API key is restricted to some buckets or collections, so it may not operate the service.",
                hint="Use an API key without `buckets` and `collections`.",
                status=403,
            )

    def check_job(self, job: JobRecord) -> JobRecord:
        """Return a job that the caller may see. Raises SubmissionError "job_not_found" (404), as for an unknown job."""
        if self.is_restricted and job.owner != self.name:
            raise job_not_found(job.id)
        return job


def _not_allowed(message: str, field: str) -> SubmissionError:
    return SubmissionError("not_allowed", message, hint="Use an API key that allows it.", status=403, field=field)


class KeyRing:
    """The keys of a file; without a file there is no authentication.

    Raises:
        SettingsError: the file cannot be read or is not a list of keys.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._keys: list[ApiKey] = []
        if path is not None:
            self._load(path)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def is_open(self) -> bool:
        """True when no API key is required."""
        return self._path is None

    def identify(self, header: str | None) -> Principal:
        """Return the caller of an ``Authorization`` header. Raises SubmissionError "unauthenticated" (401)."""
        if self._path is None:
            return Principal()
        self._reload(self._path)
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            digest = hashlib.sha256(token.strip().encode()).hexdigest()
            for key in self._keys:
                if hmac.compare_digest(key.key_sha256.lower(), digest):
                    return Principal(key.name, key.buckets, key.collections)
        message = "The API key is unknown." if header else "An API key is required."
        hint = "Send the header Authorization: Bearer <key>."
        raise SubmissionError("unauthenticated", message, hint=hint, status=401)

    def _load(self, path: Path) -> None:
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

    def _reload(self, path: Path) -> None:
        """Read the file again when it has changed; an invalid file leaves the keys unchanged."""
        try:
            stat = path.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._read_at:
                self._load(path)
        except (OSError, SettingsError) as error:
            _log.warning("API keys not reloaded", extra={"error": str(error)})
