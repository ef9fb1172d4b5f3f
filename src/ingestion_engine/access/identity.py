"""Finds out who makes a request, from the credential that it carries, and whether that credential still counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ingestion_engine.access.principal import Principal
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.timestamps import Moment, utc_now

STILL_VALID_S: Final = 2.0
"""Pause between two looks of a stream at its caller's credential."""


class CredentialSource(Protocol):
    """One kind of credentials: API keys of a file, keys of the database, tokens of a provider."""

    @property
    def title(self) -> str:
        """What messages call such a credential: ``API key``."""
        ...

    async def find(self, bearer: str) -> Principal | None:
        """Return the caller of a bearer credential; None when it is none of this source's, or not valid.

        Raises:
            SubmissionError: "unauthenticated" (401), for a credential of this source that cannot be used, with the
                reason; "database_unavailable" (503).
        """
        ...

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return True while the credential of a caller that this source has found counts, with the same rights.

        At most 5 s behind.
        """
        ...

    async def recall(self, credential: str) -> Principal | None:
        """Return the caller of a ``Principal.credential`` as it is now; None when it is unknown or counts no more.

        For sessions, which were begun with the credential.
        """
        ...


class SessionSource(Protocol):
    """Sessions of people who have logged in to the console."""

    async def find(self, cookie: str) -> Principal | None:
        """Return the caller of a session cookie; None when the session is unknown or has ended."""
        ...

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return True while the session of a caller counts. At most 5 s behind."""
        ...


class Identities:
    """All credentials of the service. Shared by all requests of one event loop.

    Args:
        sources: Sources of bearer credentials, asked in this order; none means that nobody has to log in.
        sessions: Sessions of the console; None when it has none.
        now: Clock.
    """

    def __init__(
        self,
        sources: Sequence[CredentialSource] = (),
        *,
        sessions: SessionSource | None = None,
        now: Callable[[], Moment] = utc_now,
    ) -> None:
        self.sources = list(sources)
        """Sources of bearer credentials."""
        self.sessions = sessions
        self._now = now

    @property
    def is_open(self) -> bool:
        """True when nobody has to log in: every caller may do everything."""
        return not self.sources

    def add(self, source: CredentialSource) -> None:
        """Accept further credentials; for sources that need the running service."""
        self.sources.append(source)

    async def identify(self, bearer: str | None, session_cookie: str | None, *, address: str) -> Principal:
        """Return the caller of a request.

        Args:
            bearer: The credential of ``Authorization: Bearer``; it counts more than a cookie.
            session_cookie: Value of the console's cookie.
            address: Address of the client, for log lines.

        Raises:
            SubmissionError: "unauthenticated" (401).
        """
        if self.is_open:
            return Principal()
        if bearer:
            for source in self.sources:
                principal = await source.find(bearer)
                if principal is not None and not self._is_expired(principal):
                    return principal
            raise unauthenticated(f"The {self._wanted()} is unknown.")
        if session_cookie and self.sessions is not None:
            principal = await self.sessions.find(session_cookie)
            if principal is not None and not self._is_expired(principal):
                return principal
            raise unauthenticated("The session has ended.", hint="Log in again.")
        raise unauthenticated(f"An {self._wanted()} is required.")

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return True while the credential of a caller counts; streams end when it does not. At most 5 s behind."""
        if self._is_expired(principal):
            return False
        if principal.session_id is not None:
            return self.sessions is not None and await self.sessions.is_still_valid(principal)
        if principal.kind == "anonymous":
            return self.is_open
        for source in self.sources:
            if await source.is_still_valid(principal):
                return True
        return False

    async def recall(self, credential: str) -> Principal | None:
        """Return the caller of a ``Principal.credential`` as it is now; None when it counts no more."""
        for source in self.sources:
            principal = await source.recall(credential)
            if principal is not None:
                return None if self._is_expired(principal) else principal
        return None

    def _wanted(self) -> str:
        """Return what messages ask for: ``API key or access token``."""
        return " or ".join(dict.fromkeys(source.title for source in self.sources))

    def _is_expired(self, principal: Principal) -> bool:
        return principal.expires_at is not None and principal.expires_at <= self._now()


def unauthenticated(message: str, *, hint: str = "Send the header Authorization: Bearer <key>.") -> SubmissionError:
    """Return the error of a request without a valid credential. Pure."""
    return SubmissionError("unauthenticated", message, hint=hint, status=401)
