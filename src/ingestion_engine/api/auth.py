"""Who is asking: API keys from a file, and what each key may use.

The file (``INGEST_API__KEYS_FILE``) is a JSON list; only hashes of keys are in it::

    [{"name": "docs-team", "key_sha256": "<64 hex digits>", "buckets": ["docs-*"], "collections": ["handbook*"]},
     {"name": "admin", "key_sha256": "<64 hex digits>"}]

``buckets`` and ``collections`` are shell globs; left out, they mean everything. A key restricted by either sees only
the jobs that it
submitted itself, and only the collections that it may use. The file is read again when it changes. Without a file
there is no authentication.
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

_log = get_logger(__name__)

_EVERYTHING = ("*",)


class ApiKey(BaseModel):
    """One entry of the keys file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=128)
    key_sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    buckets: tuple[str, ...] = _EVERYTHING
    collections: tuple[str, ...] = _EVERYTHING


_KEYS = TypeAdapter(list[ApiKey])


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks. Without authentication, everybody is the same unnamed one who may do everything."""

    name: str = ""
    buckets: tuple[str, ...] = _EVERYTHING
    collections: tuple[str, ...] = _EVERYTHING

    @property
    def is_restricted(self) -> bool:
        """True when there is something that the key may not use."""
        return "*" not in self.buckets or "*" not in self.collections

    @property
    def sees_jobs_of(self) -> str | None:
        """Whose jobs are to be shown; None means everybody's."""
        return self.name if self.is_restricted else None

    def may_use_collection(self, collection: str) -> bool:
        """True when the key covers a collection."""
        return any(fnmatch.fnmatchcase(collection, glob) for glob in self.collections)

    def check_request(self, request: JobRequest) -> None:
        """Return when the key covers a request. Raises SubmissionError "not_allowed" (403)."""
        if not any(fnmatch.fnmatchcase(request.source.bucket, glob) for glob in self.buckets):
            raise _not_allowed(f"this API key may not read bucket {request.source.bucket!r}", "source.bucket")
        for name, field in ((request.alias, "alias"), (request.collection, "collection")):
            # A collection that the service names is the alias's own.
            if name and not self.may_use_collection(name):
                raise _not_allowed(f"this API key may not use {field} {name!r}", field)

    def check_collection(self, collection: str) -> None:
        """Return when the key covers a collection. Raises SubmissionError "not_allowed" (403)."""
        if not self.may_use_collection(collection):
            raise _not_allowed(f"this API key may not use collection {collection!r}", "collection")

    def check_job(self, job: JobRecord) -> JobRecord:
        """Return a job that the key may see. Raises SubmissionError "job_not_found": others' jobs do not exist for
        it.
        """
        if self.is_restricted and job.owner != self.name:
            raise SubmissionError("job_not_found", f"there is no job {job.id}", hint="GET /jobs lists them", status=404)
        return job


def _not_allowed(message: str, field: str) -> SubmissionError:
    return SubmissionError("not_allowed", message, hint="ask for a key that covers it", status=403, field=field)


class KeyRing:
    """The keys of a file; or no authentication when there is none.

    Raises:
        SettingsError: the file cannot be read or is not a list of keys.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._keys: list[ApiKey] = []
        if path is not None:
            self._load(path)

    @property
    def is_open(self) -> bool:
        """True when nobody has to prove who they are."""
        return self._path is None

    def identify(self, header: str | None) -> Principal:
        """Return who sends an ``Authorization`` header. Raises SubmissionError "unauthenticated" (401)."""
        if self._path is None:
            return Principal()
        self._reload(self._path)
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            digest = hashlib.sha256(token.strip().encode()).hexdigest()
            for key in self._keys:
                if hmac.compare_digest(key.key_sha256.lower(), digest):
                    return Principal(key.name, key.buckets, key.collections)
        said = "the API key is not known" if header else "this service wants an API key"
        raise SubmissionError("unauthenticated", said, hint="send Authorization: Bearer <key>", status=401)

    def _load(self, path: Path) -> None:
        try:
            stat = path.stat()
            keys = _KEYS.validate_json(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"INGEST_API__KEYS_FILE: {path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise SettingsError(f"INGEST_API__KEYS_FILE: {describe_faults(error)}") from None
        names = [key.name for key in keys]
        if len(set(names)) != len(names):
            raise SettingsError("INGEST_API__KEYS_FILE: two keys have the same name")
        self._keys, self._read_at = keys, (stat.st_mtime_ns, stat.st_size)

    def _reload(self, path: Path) -> None:
        """Read the file again when it has changed; a broken one leaves the keys as they were."""
        try:
            stat = path.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._read_at:
                self._load(path)
        except (OSError, SettingsError) as error:
            _log.warning("API keys not read again", extra={"error": str(error)})
