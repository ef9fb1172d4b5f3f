"""Bodies about the audit log."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ingestion_engine.domain.audit import Outcome
from ingestion_engine.models.view import View


class AuditEntryView(View):
    """Who has changed something, or was refused. Secrets in what a caller sent are shown as ``***``."""

    id: str = Field(examples=["019a3f5e2c10a1b2c3d4e5f60718293a"])
    """Ids sort by time."""
    at: str = Field(examples=["2026-01-31T12:00:00.000Z"])
    """When the request ended; the first one, when the entry stands for several."""
    outcome: Outcome
    """``done``, ``refused`` or ``failed``. ``begun``: the end of a change is not recorded, because it is still being
    made or because the service ended meanwhile."""
    operation: str = Field(examples=["delete_collection"])
    """Id of the operation, as in OpenAPI; ``console.…`` for a form of the console, ``keys.…`` for a command;
    ``unmatched`` for a request that was refused before its operation was known; ``*`` for various."""
    who: str = Field(examples=["docs-team"])
    """Name of the API key or of the person; empty when the caller is unknown; ``*`` for various."""
    kind: str = Field(examples=["key"])
    """How the caller is known: ``key``, ``oidc``, ``anonymous`` where nobody has to log in, ``command``, ``service``;
    otherwise ``unknown``."""
    key_id: str | None = None
    """Id of the API key; not its secret."""
    address: str | None = Field(default=None, examples=["192.0.2.7"])
    """Address of the client."""
    method: str | None = None
    status: int | None = None
    """HTTP status of the response."""
    code: str | None = None
    """Code of the error; null when there was none."""
    request_id: str | None = None
    subject: str | None = Field(default=None, examples=["handbook"])
    """Name of the collection, alias or key."""
    job_id: str | None = None
    details: dict[str, Any] = Field(default_factory=dict, examples=[{"bucket": "docs", "prefix": "2026/"}])
    """What else the operation is about."""
    number: int = 1
    """Number of equal refusals within a minute that the entry stands for."""
    until: str | None = None
    """When the last of them was."""


class AuditPage(View):
    """Entries of the audit log, newest first."""

    items: list[AuditEntryView]
    next_cursor: str | None
    """Cursor of the next page; null at the end."""
