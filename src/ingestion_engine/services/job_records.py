"""The jobs table and its rows: the control plane's view of a job, on SQLite and PostgreSQL.

The ledger in the state store records what a job has done. This table records the request, the grant, and the last
observed progress.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from ingestion_engine.domain.spec import EngineName
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.shares import Grant


class UtcMoment(TypeDecorator[Moment]):
    """A moment stored in UTC and read back with its time zone, also from SQLite, which stores none."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: Moment | None, dialect: Dialect) -> Moment | None:
        """Convert a moment of any time zone to UTC."""
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: Moment | None, dialect: Dialect) -> Moment | None:
        """Add the time zone to the moment."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


metadata = sa.MetaData()

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("engine", sa.String(16), nullable=False),
    sa.Column("collection", sa.String(128), nullable=False),
    sa.Column("state", sa.String(24), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("retry_of", sa.String(64)),
    sa.Column("only_keys_path", sa.String(256)),
    sa.Column("spec", sa.JSON(none_as_null=True)),
    sa.Column("parallelism", sa.Integer),
    sa.Column("idempotency_key", sa.String(256)),
    sa.Column("body_hash", sa.String(64), nullable=False),
    sa.Column("progress", sa.JSON(none_as_null=True)),
    sa.Column("counts", sa.JSON(none_as_null=True)),
    sa.Column("timings", sa.JSON(none_as_null=True)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("note", sa.Text),
    sa.Column("created_at", UtcMoment, nullable=False),
    sa.Column("admitted_at", UtcMoment),
    sa.Column("submitted_at", UtcMoment),
    sa.Column("attempt_started_at", UtcMoment),
    sa.Column("started_at", UtcMoment),
    sa.Column("finished_at", UtcMoment),
    sa.Column("next_look_at", UtcMoment),
    sa.Column("cancel_requested_at", UtcMoment),
    sa.Column("abort_written_at", UtcMoment),
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("deadline_at", UtcMoment),
    sa.Column("put_backs", sa.Integer, nullable=False, server_default="0"),
    sa.Column("removing_at", UtcMoment),
    sa.Column("traceparent", sa.String(64)),
    sa.Column("waits_for", sa.String(32)),
    sa.UniqueConstraint("owner", "idempotency_key", name="uq_jobs_idempotency"),
    sa.Index("ix_jobs_created", "created_at", "id"),
    sa.Index("ix_jobs_state", "state", "created_at"),
    sa.Index("ix_jobs_collection", "collection", "created_at"),
    sa.Index("ix_jobs_finished", "finished_at", "id"),
    sa.Index("ix_jobs_numbers", "removing_at", "engine", "state"),
)

dispatchers = sa.Table(
    "dispatchers",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("expires_at", UtcMoment, nullable=False),
    sa.Column("term", sa.Integer, nullable=False, server_default="0"),
)
"""The copy of the service that dispatches, when several share one database."""

drains = sa.Table(
    "drains",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("since", UtcMoment, nullable=False),
    sa.Column("refuses", sa.Boolean, nullable=False),
    sa.Column("requested_by", sa.String(128), nullable=False),
    sa.Column("reason", sa.Text),
)
"""Whether the service is drained; at most one row, which every copy of the service obeys."""

console_sessions = sa.Table(
    "console_sessions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("credential", sa.String(64)),
    sa.Column("claims", sa.JSON(none_as_null=True)),
    sa.Column("created_at", UtcMoment, nullable=False),
    sa.Column("seen_at", UtcMoment, nullable=False),
    sa.Column("expires_at", UtcMoment, nullable=False),
    sa.Column("provider_subject", sa.String(64)),
    sa.Column("provider_session", sa.String(64)),
    sa.Index("ix_console_sessions_owner", "owner", "kind", "seen_at"),
    sa.Index("ix_console_sessions_subject", "provider_subject"),
    sa.Index("ix_console_sessions_session", "provider_session"),
)
"""People who have logged in to the console; ``id`` is the SHA-256 of what their cookie has."""

provider_log_outs = sa.Table(
    "provider_log_outs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("subject", sa.String(64)),
    sa.Column("session", sa.String(64)),
    sa.Column("at", UtcMoment, nullable=False),
    sa.Column("expires_at", UtcMoment, nullable=False),
)
"""Log-outs that the OpenID Connect provider has reported, until their tokens could not be used again."""

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("at", UtcMoment, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("operation", sa.String(128), nullable=False),
    sa.Column("who", sa.String(128), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("key_id", sa.String(128)),
    sa.Column("address", sa.String(128)),
    sa.Column("method", sa.String(16)),
    sa.Column("status", sa.Integer),
    sa.Column("code", sa.String(128)),
    sa.Column("request_id", sa.String(128)),
    sa.Column("subject", sa.String(128)),
    sa.Column("job_id", sa.String(128)),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("begun", sa.String(32)),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("until", UtcMoment),
    sa.Index("ix_audit_begun", "begun"),
    sa.Index("ix_audit_who", "who", "id"),
    sa.Index("ix_audit_operation", "operation", "id"),
    sa.Index("ix_audit_outcome", "outcome", "id"),
    sa.Index("ix_audit_subject", "subject", "id"),
    sa.Index("ix_audit_job", "job_id", "id"),
)
"""Who has done what; rows are only added, and removed when they are older than they are kept (``services.audit``)."""

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("entry", sa.JSON, nullable=False),
    sa.Column("added_at", UtcMoment, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
)
"""API keys, with the hashes of their secrets; ``entry`` is that of a file of keys without id and name."""

schema_readers = sa.Table("schema_readers", metadata, sa.Column("oldest", sa.String(32), nullable=False))
"""Version of the schema whose release is the oldest that can use the present one; one row."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One row. Times are UTC; JSON columns hold JSON types only."""

    id: str
    engine: EngineName
    collection: str
    state: JobState
    request: Mapping[str, Any]
    body_hash: str
    """Hash of engine and body; identifies equal requests under one idempotency key."""
    created_at: Moment
    owner: str = ""
    """Name of the API key that submitted the job; empty without authentication."""
    attempt: int = 0
    """Number of the current driver, from 1; 0 before the first one."""
    retry_of: str | None = None
    only_keys_path: str | None = None
    spec: Mapping[str, Any] | None = None
    """The frozen spec, from admission on."""
    parallelism: int | None = None
    """Number of parallel partitions as granted, from admission on."""
    idempotency_key: str | None = None
    progress: Mapping[str, Any] | None = None
    """``progress.json`` of the ledger, as last read."""
    counts: Mapping[str, int] | None = None
    timings: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    """``IngestionError.record()`` of the error that failed the job."""
    note: str | None = None
    """Why the job waits, for humans."""
    admitted_at: Moment | None = None
    """When the job was admitted; it holds its share and its collection from then to its end."""
    submitted_at: Moment | None = None
    """When the engine accepted the first attempt."""
    attempt_started_at: Moment | None = None
    """When the engine accepted the current attempt."""
    started_at: Moment | None = None
    finished_at: Moment | None = None
    next_look_at: Moment | None = None
    """The dispatcher does nothing about the job before this moment."""
    cancel_requested_at: Moment | None = None
    abort_written_at: Moment | None = None
    revision: int = 0
    """Number of changes to the row; a change is applied to the revision that its author has read."""
    deadline_at: Moment | None = None
    """The service ends the job then, whatever its engine reports; None while the job waits for admission."""
    put_backs: int = 0
    """Number of attempts that found an environment that cannot run the job; they do not count as attempts."""
    removing_at: Moment | None = None
    """Since when the job is being removed, after the time that ended jobs are kept; callers do not see it any more."""
    traceparent: str | None = None
    """Span of the request that submitted the job, as in the header of W3C Trace Context; None when it is not traced."""
    waits_for: str | None = None
    """Code of why the job is not admitted (``WaitReason``), as ``note`` explains it; of no meaning afterwards."""

    @property
    def alias(self) -> str | None:
        """Alias that the job moves to its collection; None for a job without one, or with an unreadable request."""
        alias = self.request.get("alias") if isinstance(self.request, Mapping) else None
        return alias if isinstance(alias, str) else None

    @property
    def grant(self) -> Grant | None:
        """Share of the embedding limit that is frozen in the spec; None before the first admission.

        Also None when the spec cannot be read: ``find_fault`` names the reason.
        """
        try:
            spec = self.spec or {}
            return Grant(parallelism=int(spec["parallelism"]), share=int(spec["limits"]["embed_in_flight"]))
        except (LookupError, TypeError, ValueError):
            return None

    def values(self) -> dict[str, Any]:
        """Return the row as column values."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**row, "engine": self.engine.value, "state": self.state.value}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> JobRecord:
        """Return the record of a row; the inverse of ``values``."""
        return cls(**{**row, "engine": EngineName(row["engine"]), "state": JobState(row["state"])})
