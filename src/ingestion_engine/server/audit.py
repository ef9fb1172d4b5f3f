"""Records in the audit log what a request changes, and that a request was refused.

A change is recorded before it is made (``services.audit.change``) and again, with its outcome, before its answer is
sent. A refusal is recorded in the background. All other requests cost two comparisons.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_engine.access.principal import Principal
from ingestion_engine.api.dependencies import LOG_IN_FAILED
from ingestion_engine.api.problems import PROBLEM_CODE
from ingestion_engine.domain.audit import Outcome
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.audit.change import recording
from ingestion_engine.services.audit.entries import REFUSALS, AuditEntry, new_entry_id
from ingestion_engine.services.audit.log import AuditLog

UNMATCHED: Final = "unmatched"
"""Operation of a request that no route matches, or that was refused before one was looked for."""

READING: Final = frozenset({"search", "console.search", "show_spark_manifest", "console.log_in", "console.log_out"})
"""Operations that change nothing, although their method is POST, unless they say so: searches, and a log-in or log-out
without a session, which anybody may send without end. Every other one of such a method is a change."""

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS: Final = _SAFE | {"POST", "PUT", "PATCH", "DELETE"}
_OWN_FIELDS: Final = frozenset({"subject", "job_id", "who", "kind", "key_id"})


class AuditTrail:
    """ASGI middleware; around everything that refuses requests, and inside of what names them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(scope)

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                await record.end(message["status"], scope["state"].get(PROBLEM_CODE))
            await send(message)

        with recording(record):
            try:
                await self._app(scope, receive, send_recorded)
            except Exception:  # answered, and logged, by who is around
                await record.end(500, "internal_error")
                raise


class RequestRecord:
    """What the audit log learns of one request; implements ``ChangeRecord``."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        scope.setdefault("state", {})
        self._facts: dict[str, Any] = {}
        self._begun: AuditEntry | None = None
        self._ended = False

    def note(self, **facts: Any) -> None:
        """Add what the request is about."""
        self._facts.update(facts)

    async def begin(self) -> None:
        """Store the intent. Raises DatabaseUnavailable."""
        log = self._log
        if self._begun is None and log is not None:
            entry = self._describe(Outcome.BEGUN)
            self._begun = await log.begin(entry, self._find_credentials())

    async def end(self, status: int, code: str | None) -> None:
        """Record the outcome, if there is anything to record."""
        log = self._log
        if self._ended or log is None:
            return
        self._ended = True
        is_change = self._begun is not None or (status < 400 and self._is_change())
        # A token of the provider that does not count is refused with 400, as its standard has it.
        is_refusal = status in REFUSALS or (status == 400 and bool(self._scope["state"].get(LOG_IN_FAILED)))
        if not is_change and not is_refusal:
            return
        outcome = Outcome.DONE if status < 400 else Outcome.REFUSED if is_refusal else Outcome.FAILED
        entry = self._describe(outcome, status=status, code=code)
        if is_change:
            await log.end(entry, self._find_credentials())
        else:
            log.refuse(entry, self._find_credentials())

    @property
    def _log(self) -> AuditLog | None:
        """The log of the running application; None before it has started."""
        services = getattr(self._scope["app"].state, "services", None)
        return None if services is None else services.audit

    def _is_change(self) -> bool:
        return self._scope["method"] not in _SAFE and self._operation not in (*READING, UNMATCHED)

    @property
    def _operation(self) -> str:
        route = self._scope.get("route")
        name = getattr(route, "operation_id", None) or getattr(route, "name", None)
        if name is None:
            return UNMATCHED
        is_page = getattr(route, "path", "").startswith("/console")
        return f"console.{name}" if is_page else str(name)

    def _describe(self, outcome: Outcome, *, status: int | None = None, code: str | None = None) -> AuditEntry:
        """Return the entry of the request as it is known now."""
        scope, facts = self._scope, dict(self._facts)
        caller: Principal | None = scope["state"].get("caller")
        client = scope.get("client")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        given = scope.get("path_params") or {}
        known = caller is not None  # what strangers call things is of no interest, and could be anything
        return AuditEntry(
            id=new_entry_id(),
            at=utc_now(),
            outcome=outcome,
            operation=self._operation,
            who=str(facts.get("who", "" if caller is None else caller.name)),
            kind=str(facts.get("kind", "unknown" if caller is None else caller.kind)),
            key_id=facts.get("key_id", None if caller is None else caller.key_id),
            address=str(client[0]) if client else None,
            method=method,
            status=status,
            code=code,
            request_id=scope["state"].get("request_id"),
            subject=facts.get("subject", given.get("name") if known else None),
            job_id=facts.get("job_id", given.get("job_id") if known else None),
            details={name: value for name, value in facts.items() if name not in _OWN_FIELDS},
            begun=None if self._begun is None else self._begun.id,
        )

    def _find_credentials(self) -> tuple[str, ...]:
        """Return the credentials of the request, which must not be in its entry, wherever else it repeats them.

        Only the one by which the service knows the caller, or else the one that it has refused: with any other header
        or cookie, a caller could name what is to be masked.
        """
        caller: Principal | None = self._scope["state"].get("caller")
        if caller is not None and caller.kind == "anonymous":
            return ()
        headers = Headers(scope=self._scope)
        if caller is None or caller.session_id is None:
            return (headers.get("authorization", "").partition(" ")[2].strip(),)
        pairs = (pair.partition("=")[2].strip() for pair in headers.get("cookie", "").split(";"))
        return tuple(value for value in pairs if hashlib.sha256(value.encode()).hexdigest() == caller.session_id)
