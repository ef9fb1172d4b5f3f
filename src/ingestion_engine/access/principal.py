"""The caller of a request: who it is, and what it may do."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import Literal

from ingestion_engine.access.scopes import EVERY_SCOPE, EVERYTHING, Scope, is_restricting
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.domain.spec import JobRequest
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.job_ids import alias_of_version, is_version_of
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.jobs import job_not_found

Kind = Literal["anonymous", "key", "oidc"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Caller of the service. Where nobody has to log in, every caller is the same, unnamed and unrestricted."""

    name: str = ""
    """Name of the key or of the person; the owner of the jobs that it submits."""
    kind: Kind = "anonymous"
    scopes: frozenset[Scope] = EVERY_SCOPE
    buckets: tuple[str, ...] = EVERYTHING
    """Shell globs of the buckets that it may read."""
    collections: tuple[str, ...] = EVERYTHING
    """Shell globs of the collections and aliases that it may use."""
    expires_at: Moment | None = None
    """When the credential expires; None means never, or not known in advance."""
    key_id: str | None = None
    """Id of the API key, which is no secret; None for other kinds and for keys without one."""
    session_id: str | None = None
    """Id of the session of the console, which is not the secret in its cookie; None for requests with a credential."""
    credential: str = field(default="", repr=False)
    """What ``Identities.is_still_valid`` finds the credential by: the hash of a key, never the key itself."""

    @property
    def is_restricted(self) -> bool:
        """True when some buckets or collections are not allowed."""
        return is_restricting(self.buckets, self.collections)

    @property
    def is_limited_to_buckets(self) -> bool:
        """True when some buckets are not allowed."""
        return "*" not in self.buckets

    @property
    def sees_jobs_of(self) -> str | None:
        """Owner of the jobs that the caller may see; None means all jobs."""
        return self.name if self.is_restricted else None

    def may(self, scope: Scope) -> bool:
        """Return True when requests of a scope are allowed. Pure."""
        return scope in self.scopes

    def may_read_bucket(self, bucket: str) -> bool:
        """Return True when a bucket is allowed. Pure."""
        return any(fnmatch.fnmatchcase(bucket, glob) for glob in self.buckets)

    def may_use_collection(self, collection: str, *, alias: str | None = None) -> bool:
        """Return True when a collection or an alias is allowed by its name. Pure.

        A collection that the service has named for an alias belongs to the alias.

        Args:
            collection: The name.
            alias: The alias through which it is used.
        """
        names = [collection]
        if alias is not None and is_version_of(alias, collection):
            names.append(alias)
        elif (made_for := alias_of_version(collection)) is not None:
            names.append(made_for)
        return any(fnmatch.fnmatchcase(name, glob) for name in names for glob in self.collections)

    def may_use_contents(self, collection: str, bucket: str | None, *, alias: str | None = None) -> bool:
        """Return True when a collection is allowed by its name and by the bucket of its objects. Pure.

        A collection whose bucket is not known is allowed to a key that is allowed it by name: not to one that is
        restricted to buckets only.
        """
        if not self.may_use_collection(collection, alias=alias):
            return False
        if bucket is None:
            return not self.is_limited_to_buckets or "*" not in self.collections
        return self.may_read_bucket(bucket)

    def has_rights_of(self, other: Principal) -> bool:
        """Return True when another one may do and see just the same, so that a stream of that one may go on. Pure."""
        return all(getattr(self, name) == getattr(other, name) for name in ("name", "scopes", "buckets", "collections"))

    def check_scope(self, scope: Scope) -> None:
        """Check that requests of a scope are allowed. Raises SubmissionError "scope_missing" (403)."""
        if not self.may(scope):
            raise SubmissionError(
                "scope_missing",
                f"{self.title} lacks the scope {scope.value!r}.",
                hint=f"Use a key with the scope {scope.value!r}.",
                status=403,
                scope=scope.value,
            )

    def check_request(self, request: JobRequest) -> None:
        """Check that a request is allowed. Raises SubmissionError "not_allowed" (403)."""
        if not self.may_read_bucket(request.source.bucket):
            raise self._not_allowed(f"bucket {request.source.bucket!r}", "source.bucket")
        if request.alias is not None and not self.may_use_collection(request.alias):
            raise self._not_allowed(f"alias {request.alias!r}", "alias")
        # Without a name, the service names a collection for the alias.
        if request.collection and not self.may_use_collection(request.collection, alias=request.alias):
            raise self._not_allowed(f"collection {request.collection!r}", "collection")

    def check_collection(self, collection: str) -> None:
        """Check that a collection is allowed. Raises SubmissionError "not_allowed" (403)."""
        if not self.may_use_collection(collection):
            raise self._not_allowed(f"collection {collection!r}", "collection")

    def check_job(self, job: JobRecord) -> JobRecord:
        """Return a job that the caller may see. Raises SubmissionError "job_not_found" (404), as for an unknown job."""
        if self.is_restricted and job.owner != self.name:
            raise job_not_found(job.id)
        return job

    @property
    def title(self) -> str:
        """What messages call the caller."""
        return {"anonymous": "The caller", "key": f"API key {self.name!r}", "oidc": f"User {self.name!r}"}[self.kind]

    def _not_allowed(self, what: str, field_name: str) -> SubmissionError:
        message = f"{self.title} may not use {what}."
        hint = "Use an API key that allows it."
        return SubmissionError("not_allowed", message, hint=hint, status=403, field=field_name)
