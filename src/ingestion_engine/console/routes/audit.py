"""The page of the audit log, for those who operate the service."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from ingestion_engine.api.dependencies import ServicesDep
from ingestion_engine.api.views import show_audit_entry
from ingestion_engine.console.pages import render
from ingestion_engine.console.routing import make_router
from ingestion_engine.console.viewer import AdminDep
from ingestion_engine.domain.audit import Outcome
from ingestion_engine.services.audit.log import AuditFilter
from ingestion_engine.services.audit.titles import CONSOLE, TITLES, title_of

router = make_router()

PATH: Final = "/console/system/audit"

PAGE_ENTRIES: Final = 50
"""Entries of one page."""

_Text = Annotated[str, Query(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
OPERATIONS: Final = dict(sorted(TITLES.items()))
"""Operations that the filter offers, by name."""

_OutcomeFilter = Literal["", "begun", "done", "refused", "failed"]


@router.get(PATH)
async def list_audit(
    request: Request,
    _viewer: AdminDep,
    services: ServicesDep,
    who: _Text = "",
    subject: _Text = "",
    operation: _Text = "",
    outcome: _OutcomeFilter = "",
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> Response:
    """Return who has changed what, and who was refused, newest first."""
    where = AuditFilter(
        who=who or None,
        subject=subject or None,
        operation=operation or None,
        outcome=Outcome(outcome) if outcome else None,
    )
    found, following = await services.audit.list_page(where, limit=PAGE_ENTRIES, cursor=cursor)
    given = {"who": who, "subject": subject, "operation": operation, "outcome": outcome}
    kept = {name: value for name, value in given.items() if value}
    return render(
        request,
        "system/audit.html",
        section="/console/system",
        entries=[show_audit_entry(entry) for entry in found],
        who=who,
        subject=subject,
        operation=operation,
        outcome=outcome,
        title_of=title_of,
        of_console=CONSOLE,
        operations=OPERATIONS,
        outcomes=[one.value for one in Outcome],
        first_url=f"{PATH}?{urlencode(kept)}" if cursor else None,
        next_url=f"{PATH}?{urlencode({**kept, 'cursor': following})}" if following else None,
    )
