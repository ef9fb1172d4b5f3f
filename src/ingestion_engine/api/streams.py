"""Event streams: what a follower of a job receives, until the job, the credential, the service or the client ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ingestion_engine.access.identity import Identities
from ingestion_engine.access.principal import Principal
from ingestion_engine.api.metrics import HttpLoad
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.telemetry import context_without_fields, get_logger
from ingestion_engine.services.job_feed import Follower, JobUpdate

CHECK_S: Final = 2.0
"""Pause between two looks at a credential. With the age of what is known of keys, a revoked one ends in 5 s."""

RETRY: Final = b"retry: 2000\n\n"
"""Clients open the stream again 2 s after it has ended without the job."""

IS_HEAD: Final = "is_head"
"""Entry of a request's state: True for HEAD, which gets the beginning of a stream only."""

HEARTBEAT: Final = b": heartbeat\n\n"

_log = get_logger(__name__)


class OpenStreams:
    """All event streams of the process: how many there are, and whose. For one event loop.

    Args:
        load: Counts them for the metrics.
        most: Maximum number; None means the one of ``load``.
    """

    def __init__(self, load: HttpLoad, most: int | None = None) -> None:
        self._load = load
        self._most = most
        self._by_caller: dict[Principal, set[Follower]] = {}
        self._watching: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """Return when one more may be opened. Raises SubmissionError "too_many_streams" (503)."""
        most = self._most or self._load.most_streams
        if most is not None and self._load.streams >= most:
            self._load.count_limited("streams")
            raise SubmissionError(
                "too_many_streams",
                f"The service has {most} event streams open, as many as it may.",
                hint="Follow the job with GET /jobs/{id}, or raise INGEST_LIMITS__STREAMS.",
                status=503,
            )

    def add(self, follower: Follower, caller: Principal, identities: Identities) -> None:
        """Note a stream, which ends when the credential of its caller does not count any more."""
        self._load.streams += 1
        self._by_caller.setdefault(caller, set()).add(follower)
        if self._watching is None or self._watching.done():
            watching = self._watch(identities)
            self._watching = asyncio.create_task(watching, context=context_without_fields())

    def remove(self, follower: Follower, caller: Principal) -> None:
        """Forget a stream that has ended."""
        self._load.streams -= 1
        followers = self._by_caller.get(caller, set())
        followers.discard(follower)
        if not followers:
            self._by_caller.pop(caller, None)

    async def _watch(self, identities: Identities) -> None:
        """Look at each caller's credential, once for all of its streams, until there are none."""
        while self._by_caller:
            await asyncio.sleep(CHECK_S)
            for caller in [*self._by_caller]:
                try:
                    is_valid = await identities.is_still_valid(caller)
                except Exception:  # top of a loop of the service: a credential that cannot be looked up does not count
                    _log.exception("credential of a stream not checked", extra={"caller": caller.name})
                    is_valid = False
                if not is_valid:
                    for follower in [*self._by_caller.get(caller, ())]:
                        follower.close()


class EventStream(StreamingResponse):
    """Response with the updates of a follower as server-sent events.

    Args:
        follower: The follower; closed with the response.
        encode: Returns the events of an update, or of a heartbeat (None); empty when there are none.
        streams: All streams.
        caller: Who reads it.
        identities: What knows the credentials.
        ending: Event that follows when the job has ended, and not when the client is to open the stream again.

    Raises:
        SubmissionError: "too_many_streams" (503).
    """

    def __init__(
        self,
        follower: Follower,
        encode: Callable[[JobUpdate | None], bytes],
        *,
        streams: OpenStreams,
        caller: Principal,
        identities: Identities,
        ending: bytes = b"",
    ) -> None:
        try:
            streams.check_room()
        except SubmissionError:
            follower.close()
            raise
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(iter(()), media_type="text/event-stream", headers=headers)
        self._follower = follower
        self._encode = encode
        self._streams = streams
        self._caller = caller
        self._identities = identities
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the follower ends, or the client goes."""
        follower = self._follower
        if scope.get("state", {}).get(IS_HEAD):
            follower.close()
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body"})
            return
        self._streams.add(follower, self._caller, self._identities)
        # One task beside this one; Starlette's own responses take three for each stream.
        leaving = asyncio.create_task(_close_when_gone(receive, follower))
        has_ended = False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": RETRY, "more_body": True})
            async for update in follower:
                has_ended = update is not None and update.job.state.is_final
                if events := (HEARTBEAT if update is None else b"") + self._encode(update):
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            await send({"type": "http.response.body", "body": self._ending if has_ended else b""})
        finally:
            leaving.cancel()
            follower.close()
            self._streams.remove(follower, self._caller)


async def _close_when_gone(receive: Receive, follower: Follower) -> None:
    """Close a follower when its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    follower.close()
