"""How many requests one address or one credential may make: token buckets in memory, of each copy of the service."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingestion_engine.api.dependencies import LOG_IN_FAILED
from ingestion_engine.api.metrics import HttpLoad
from ingestion_engine.api.problems import answer_problem, make_problem
from ingestion_engine.console.cookies import SESSION_COOKIES
from ingestion_engine.console.returning import BACK_CHANNEL_PATH, LOG_IN_PATH
from ingestion_engine.runtime.settings import LimitsSettings
from ingestion_engine.server.host_checks import PROBES

BURST_S: Final = 20.0
"""Seconds of a rate that may be used at once: a page loads a dozen files, a script submits hundreds of jobs."""

LOGIN_BURST_S: Final = 60.0
"""Of failed log-ins: all of a minute may be made at once."""

BUCKETS: Final = 10_000
"""Buckets of each kind that are kept, 200 bytes each. Those that have been unused longest are forgotten first; they
would mostly be full again."""

ACCEPTED_S: Final = 3600.0
"""How long a credential that was accepted may be tried although its address has failed too often."""

FORMS: Final[Mapping[str, str]] = {LOG_IN_PATH: "", BACK_CHANNEL_PATH: "log-out "}
"""Where credentials are in a form: keys that are entered by hand, and log-out tokens of the provider. Their failures
are counted by address in buckets with these prefixes: who guesses keys does not keep out the provider's log-outs, which
may come through the same proxy."""


class Buckets:
    """Token buckets by name. For one event loop.

    Args:
        rate: Tokens that each gains in a second.
        burst: Tokens that each may hold, at least 1.
        clock: Monotonic seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens and the moment at which they were counted, the most recently used last."""

    def __len__(self) -> int:
        return len(self._levels)

    def wait_s(self, name: str) -> float:
        """Return the seconds until a bucket has a token; 0 when it has one."""
        return max(0.0, (1.0 - self._read(name)) / self._rate)

    def take(self, name: str) -> float:
        """Take a token and return 0, or the seconds until there is one."""
        level = self._read(name)
        if level < 1.0:
            return (1.0 - level) / self._rate
        self._levels[name] = level - 1.0, self._clock()
        self._levels.move_to_end(name)
        if len(self._levels) > BUCKETS:
            self._levels.popitem(last=False)
        return 0.0

    def _read(self, name: str) -> float:
        level, at = self._levels.get(name, (self._burst, self._clock()))
        return min(self._burst, level + (self._clock() - at) * self._rate)


class RateLimits:
    """ASGI middleware: refuses with 429 what exceeds a rate, before anything else is done for it.

    A credential counts by its hash, whether it is valid or not. One that was accepted has its own rate only:
    it is not affected by what others at its address want or get wrong, for example all clients behind one proxy. A
    route that asks nobody who they are accepts none.

    Args:
        app: The application.
        settings: Rates.
        load: Counts refusals for the metrics.
        clock: Monotonic seconds.
    """

    def __init__(
        self, app: ASGIApp, settings: LimitsSettings, load: HttpLoad, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._load = load
        self._clock = clock
        address, caller = settings.address_requests_per_second, settings.requests_per_second
        failures = settings.failed_logins_per_minute / 60
        self._addresses = Buckets(address, address * BURST_S, clock)
        self._callers = Buckets(caller, caller * BURST_S, clock)
        self._failures = Buckets(failures, failures * LOGIN_BURST_S, clock)
        self._accepted: OrderedDict[str, float] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        credentials = [] if scope["type"] != "http" else _find_credentials(scope)
        if scope["type"] != "http" or (scope["path"] in PROBES and not credentials):
            await self._app(scope, receive, send)
            return
        address = name_address(scope)
        limit, wait_s = self._find_limit(scope, address, credentials)
        if wait_s > 0:
            self._load.count_limited(limit)
            await _refuse(limit, wait_s)(scope, receive, send)
            return

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start" and (credentials or _is_log_in(scope)):
                self._note(scope, address, credentials, status=message["status"])
            await send(message)

        await self._app(scope, receive, send_noted)

    def _find_limit(self, scope: Scope, address: str, credentials: Sequence[str]) -> tuple[str, float]:
        """Return the limit that a request exceeds, and the seconds after which it no longer does; 0 for none.

        A probe may bring a credential to see details: it tries it like every other request, and is not limited else.
        """
        is_probe = scope["path"] in PROBES
        # Who is logged in already does not guess keys any faster.
        is_known = bool(credentials) and not _is_log_in(scope) and all(map(self._is_accepted, credentials))
        if not is_probe and not is_known and (wait_s := self._addresses.take(address)):
            return "address", wait_s
        tries = _is_log_in(scope) or (credentials and not is_known)
        if tries and (wait_s := self._failures.wait_s(_name_failures(scope, address))):
            return "failed_logins", wait_s
        return "caller", 0.0 if is_probe else max(map(self._callers.take, credentials), default=0.0)

    def _is_accepted(self, credential: str) -> bool:
        return self._accepted.get(credential, -math.inf) > self._clock() - ACCEPTED_S

    def _note(self, scope: Scope, address: str, credentials: Sequence[str], *, status: int) -> None:
        state = scope.get("state") or {}
        if status == 401 or state.get(LOG_IN_FAILED):
            self._failures.take(_name_failures(scope, address))
            for credential in () if _is_log_in(scope) else credentials:
                self._accepted.pop(credential, None)
        elif not _is_log_in(scope) and getattr(state.get("caller"), "kind", "anonymous") != "anonymous":
            for credential in credentials:
                self._accepted[credential] = self._clock()
                self._accepted.move_to_end(credential)
            while len(self._accepted) > BUCKETS:
                self._accepted.popitem(last=False)


def _is_log_in(scope: Scope) -> bool:
    """Return whether the credential of a request is in its form. Pure."""
    return scope["method"] == "POST" and scope["path"] in FORMS


def _name_failures(scope: Scope, address: str) -> str:
    """Return the bucket of the failures that a request counts for. Pure."""
    return FORMS.get(scope["path"], "") + address


def name_address(scope: Scope) -> str:
    """Return whose bucket a request counts for: its IPv4 address, or its IPv6 network of 64 bits. Pure."""
    client = scope.get("client")
    text = str(client[0]) if client else ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv4Address):
        return text
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def _find_credentials(scope: Scope) -> list[str]:
    """Return hashes of what a request is identified by, one however it is written; of a session, by both names. Pure.

    Read as the application reads them: the first header, the last cookie of a name. Anything else would be a new bucket
    for the same key.
    """
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return [_hash(token.strip())]
    cookies: dict[str, str] = {}
    for header in headers.getlist("cookie"):
        cookies.update(cookie_parser(header))
    return [_hash(cookies[name]) for name in SESSION_COOKIES if cookies.get(name)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_DETAILS: Final = {
    "address": "This address sends more requests than the service takes from one.",
    "caller": "This API key or session sends more requests than the service takes from one.",
    "failed_logins": "Too many log-ins from this address have failed.",
}
_SETTINGS: Final = {
    "address": "ADDRESS_REQUESTS_PER_SECOND",
    "caller": "REQUESTS_PER_SECOND",
    "failed_logins": "FAILED_LOGINS_PER_MINUTE",
}


def _refuse(limit: str, wait_s: float) -> ASGIApp:
    seconds = max(1, math.ceil(wait_s))
    hint = f"Wait for {seconds} s, or raise INGEST_LIMITS__{_SETTINGS[limit]}."
    problem = make_problem(429, "rate_limited", _DETAILS[limit], hint=hint)
    return answer_problem(problem, {"Retry-After": str(seconds)})
