"""The route of the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from ingestion_engine.api.dependencies import AdminDep, MomentText, ServicesDep
from ingestion_engine.api.json_bodies import JsonRoute
from ingestion_engine.api.query_values import Cursor, QueryWhole
from ingestion_engine.api.views import show_audit_entry
from ingestion_engine.domain.audit import Outcome
from ingestion_engine.domain.spec import Strict
from ingestion_engine.models.audit import AuditPage
from ingestion_engine.services.audit.log import AuditFilter

router = APIRouter(route_class=JsonRoute, tags=["operations"])

_NAME = r"^[^\x00-\x1f\x7f]*$"
"""PostgreSQL refuses U+0000 in a query."""


class AuditQuery(Strict):
    """Filter and page of the audit log."""

    who: str | None = Field(default=None, max_length=128, pattern=_NAME)
    """Only entries of this caller: name of an API key or of a person; empty means callers that are unknown."""
    operation: str | None = Field(default=None, max_length=128, pattern=_NAME)
    """Only entries of this operation, for example ``delete_collection``."""
    outcome: Outcome | None = None
    """Only entries with this outcome."""
    subject: str | None = Field(default=None, max_length=128, pattern=_NAME)
    """Only entries about the collection, alias or key of this name."""
    job: str | None = Field(default=None, max_length=128, pattern=_NAME)
    """Only entries about this job."""
    after: MomentText | None = None
    """Only entries of this moment or later, for example ``2026-01-31T12:00:00Z``."""
    before: MomentText | None = None
    """Only entries before this moment."""
    limit: QueryWhole = Field(default=100, ge=1, le=1000)
    """Maximum number of entries."""
    cursor: Cursor | None = None
    """``next_cursor`` of the previous page."""


@router.get(
    "/audit", operation_id="list_audit", summary="List the audit log", response_description="A page of entries."
)
async def list_audit(query: Annotated[AuditQuery, Query()], caller: AdminDep, services: ServicesDep) -> AuditPage:
    """Return who has changed what, and who was refused, newest first.

    Refusals are listed within seconds; equal ones within a minute are one entry and another one with their number.
    """
    where = AuditFilter(
        who=query.who,
        operation=query.operation,
        outcome=query.outcome,
        subject=query.subject,
        job_id=query.job,
        after=query.after,
        before=query.before,
    )
    found, following = await services.audit.list_page(where, limit=query.limit, cursor=query.cursor or None)
    return AuditPage(items=[show_audit_entry(entry) for entry in found], next_cursor=following)
