"""Sessions of people who have logged in to the console.

The cookie has a random secret, and the database its hash: who reads the database cannot use a session. Only a log-in
makes a secret, so no value that somebody else has put into a browser ever becomes a session. What a session may do is
found anew for each request, from its API key or from the rules for its claims: it never outlives the key.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ingestion_engine.access.identity import Identities
from ingestion_engine.access.oidc.log_outs import ProviderLogIn, refuse_log_out
from ingestion_engine.access.oidc.rules import RuleBook
from ingestion_engine.access.principal import Principal
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.settings import SessionSettings
from ingestion_engine.runtime.timestamps import Moment, utc_now
from ingestion_engine.services.audit.change import begin_change, note_change
from ingestion_engine.services.console_sessions import ProviderLogOut, SessionRecord, SessionStore

SECRET_BYTES: Final = 32
TOUCH_S: Final = 60.0
"""Age from which the time of the last request is written again."""

KNOWN_S: Final = 2.0
"""Time for which streams use what was found last: many pages of one session follow jobs."""

SWEEP_S: Final = 60.0
"""Pause between two removals of sessions that have ended."""

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_KNOWN_MAX: Final = 10_000
_USED: Final = "The log-out token was used already."

Recall = Callable[[SessionRecord], Awaitable[Principal | None]]
"""Returns the present rights of a session's principal; None when its credential does not count any more."""


def recalling(identities: Identities, rules: RuleBook | None) -> Recall:
    """Return the function that finds the present rights of sessions: of their key, or by the rules for their claims."""

    async def recall(record: SessionRecord) -> Principal | None:
        if record.claims is None:
            return None if record.credential is None else await identities.recall(record.credential)
        if rules is None:
            return None
        try:
            return rules.make_principal(record.claims, expires_at=None)
        except SubmissionError:  # no rule names it any more
            return None

    return recall


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that has just begun."""

    secret: str
    """Value of the cookie."""
    principal: Principal


class Sessions:
    """All sessions; a ``SessionSource``.

    Args:
        store: The table of sessions.
        settings: How long sessions last.
        recall: Finds the present rights of a session.
        now: Clock.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: SessionStore,
        settings: SessionSettings,
        recall: Recall,
        *,
        now: Callable[[], Moment] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lasts = dt.timedelta(hours=settings.hours)
        self._idle = dt.timedelta(minutes=settings.idle_minutes)
        self._most = settings.per_caller
        self._recall = recall
        self._now = now
        self._clock = clock
        self._known: dict[str, tuple[float, Principal | None]] = {}

    async def begin(
        self,
        principal: Principal,
        claims: Mapping[str, Any] | None = None,
        *,
        log_in: ProviderLogIn | None = None,
    ) -> NewSession:
        """Begin a session of somebody who has just been identified.

        Args:
            principal: The caller, by an API key or a log-in at the provider.
            claims: Claims of the ID token that the rules use; None for an API key.
            log_in: The log-in at the provider; None for an API key.

        Raises:
            SubmissionError: "log_in_failed" (401): the provider has reported the end of this log-in meanwhile.
            DatabaseUnavailable: the database does not respond.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        now = self._now()
        record = SessionRecord(
            id=_hash(secret),
            kind=principal.kind,
            owner=principal.name,
            credential=principal.credential or None,
            claims=claims,
            created_at=now,
            seen_at=now,
            expires_at=now + self._lasts,
            provider_subject=None if log_in is None else log_in.subject,
            provider_session=None if log_in is None else log_in.session,
        )
        await begin_change(who=principal.name, kind=principal.kind, key_id=principal.key_id)
        issued_at = None if log_in is None else log_in.issued_at
        if not await self._store.insert(record, keep=self._most, issued_at=issued_at):
            message = "The provider has ended the log-in before it was completed."
            raise SubmissionError("log_in_failed", message, hint="Log in again.", status=401)
        return NewSession(secret, self._as_principal(principal, record))

    async def find(self, cookie: str) -> Principal | None:
        """Return the caller of a session, whose use is noted; None when it is unknown or has ended.

        Raises:
            DatabaseUnavailable: the database does not respond.
        """
        if _SECRET.fullmatch(cookie) is None:
            return None
        record = await self._store.find(_hash(cookie))
        principal = None if record is None else await self._read(record)
        if record is not None and principal is not None:
            now = self._now()
            if (now - record.seen_at).total_seconds() >= TOUCH_S:
                await self._store.touch(record.id, now)
        return principal

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return True while the session of a caller counts, with the same rights; ``KNOWN_S`` behind.

        Does not keep it from being idle.
        """
        session_id = principal.session_id or ""
        found_at, found = self._known.get(session_id, (0.0, None))
        if session_id not in self._known or self._clock() - found_at >= KNOWN_S:
            record = await self._store.find(session_id)
            found = None if record is None else await self._read(record)
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[session_id] = (self._clock(), found)
        return found is not None and found.has_rights_of(principal)

    async def end(self, cookie: str) -> SessionRecord | None:
        """End the session of a cookie; return what it was, None if the cookie has none. Raises DatabaseUnavailable."""
        record = None if _SECRET.fullmatch(cookie) is None else await self._store.find(_hash(cookie))
        if record is not None:
            await begin_change(who=record.owner, kind=record.kind)
            await self._store.delete(record.id)
            self._known.pop(record.id, None)
        return record

    async def end_by_provider(self, log_out: ProviderLogOut) -> None:
        """End the sessions that a log-out at the provider names, of all copies of the service; maybe none.

        Raises:
            SubmissionError: "logout_token_invalid" (400): it was received already.
            DatabaseUnavailable: the database does not respond; the log-out can be received again.
        """
        if await self._store.knows_log_out(log_out.id):
            raise refuse_log_out(_USED)
        await begin_change(who=", ".join(await self._store.list_owners(log_out)), kind="oidc")
        ended = await self._store.log_out(log_out)
        if ended is None:
            raise refuse_log_out(_USED)
        for session_id in ended:
            self._known.pop(session_id, None)
        note_change(sessions=len(ended))

    async def sweep(self) -> None:
        """Remove the sessions that have ended by time. Raises DatabaseUnavailable."""
        now = self._now()
        await self._store.delete_ended(now=now, idle_since=now - self._idle)

    async def _read(self, record: SessionRecord) -> Principal | None:
        now = self._now()
        if record.expires_at <= now or record.seen_at + self._idle <= now:
            return None
        principal = await self._recall(record)
        return None if principal is None else self._as_principal(principal, record)

    def _as_principal(self, principal: Principal, record: SessionRecord) -> Principal:
        ends = [moment for moment in (principal.expires_at, record.expires_at) if moment is not None]
        return replace(principal, session_id=record.id, expires_at=min(ends))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
