"""One HTTP connection: uvicorn's protocol over h11, within limits of time, size and form.

h11 rather than a faster parser: it refuses what is ambiguous, and whatever else it lets pass is refused here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from ingestion_engine.api.metrics import HttpLoad
from ingestion_engine.api.problems import MEDIA_TYPE, make_problem
from ingestion_engine.server.connections import ConnectionGuard, Phase
from ingestion_engine.server.host_checks import PROBES
from ingestion_engine.server.response_headers import list_headers

HEAD_BYTES: Final = 32 * 1024
"""Maximum size of a request line with all headers: tokens of providers with many groups have 8 KiB, cookies 4 KiB."""

HEADERS: Final = 100
"""Maximum number of headers; browsers behind several proxies send about 40."""

TARGET_BYTES: Final = 8 * 1024
"""Maximum length of a path with its query, as of other servers: an object's key of 1,024 bytes takes 3,072."""

DISCARDED_BYTES: Final = 4 * 1024 * 1024
"""What is read of a body that nobody wants, so that its client reads the refusal; then the connection is closed."""

_FOLDED: Final = re.compile(rb"\n[ \t]")
_VERSIONS: Final = frozenset({b"1.0", b"1.1"})

_CODES: Final = {
    400: "bad_request",
    408: "request_timeout",
    414: "url_too_long",
    431: "headers_too_large",
    503: "too_many_connections",
    505: "http_version_not_supported",
}
_HINTS: Final = {
    408: "Send the whole request at once.",
    414: "Send a shorter path and query.",
    431: "Send fewer or shorter headers.",
    503: "Try again later, or raise INGEST_LIMITS__CONNECTIONS and the limit on open files.",
}


class BoundedConnection(h11.Connection):
    """h11's state machine, which also refuses what a proxy before it could read otherwise, and what is too large.

    Args:
        on_event: Called with every event of the client; it may refuse one.
    """

    def __init__(self, on_event: Callable[[h11.Event], None]) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._on_event = on_event
        self._discarded = 0
        self.refusal: h11.RemoteProtocolError | None = None
        """Why the last request was refused; uvicorn does not pass it on."""

    def next_event(self) -> Any:
        """Return the next event. Raises RemoteProtocolError for requests that are refused, with a status as hint."""
        try:
            return self._read_event()
        except h11.RemoteProtocolError as error:
            self.refusal = error
            raise

    def _read_event(self) -> Any:
        is_idle = self.their_state is h11.IDLE
        before = self.trailing_data[0] if is_idle else b""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._discarded = 0
            _check_request(event, before[: len(before) - len(self.trailing_data[0])])
        elif isinstance(event, h11.Data) and self.our_state in (h11.DONE, h11.MUST_CLOSE):
            self._discarded += len(event.data)
            if self._discarded > DISCARDED_BYTES:
                raise h11.RemoteProtocolError("The body goes on after the response.")
        if isinstance(event, h11.Request | h11.Data | h11.EndOfMessage):
            self._on_event(event)
        return event


def _check_request(event: h11.Request, head: bytes) -> None:
    """Return when a request may be served.

    Raises:
        RemoteProtocolError: it is too large, or two readers of it could see different requests.
    """
    headers = [(name.lower(), value) for name, value in event.headers]
    names = [name for name, _ in headers]
    if len(head) > HEAD_BYTES or len(headers) > HEADERS:
        reason = f"A request has at most {HEADERS} headers and {HEAD_BYTES // 1024} KiB before its body."
        raise h11.RemoteProtocolError(reason, error_status_hint=431)
    if len(event.target) > TARGET_BYTES:
        raise h11.RemoteProtocolError(f"A URL has at most {TARGET_BYTES:,} bytes.", error_status_hint=414)
    if event.http_version not in _VERSIONS:
        raise h11.RemoteProtocolError("The service speaks HTTP/1.1.", error_status_hint=505)
    if b"transfer-encoding" in names and (b"content-length" in names or event.http_version == b"1.0"):
        raise h11.RemoteProtocolError("The length of the body is given in two ways.", error_status_hint=400)
    if _FOLDED.search(head):
        raise h11.RemoteProtocolError("A header is continued on a further line.", error_status_hint=400)


class BoundedProtocol(H11Protocol):
    """A connection that a ``ConnectionGuard`` counts and may end.

    Args:
        guard: Of all connections.
        load: What has become of connections, for the metrics.
        given: Arguments of uvicorn's protocol.
    """

    def __init__(self, guard: ConnectionGuard, load: HttpLoad, **given: Any) -> None:
        super().__init__(**given)
        self._guard = guard
        self._load = load
        self._is_refused = False
        self.conn: BoundedConnection = BoundedConnection(self._note_event)

    # -- the life of a connection --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Count the connection, or close it when there is no room."""
        super().connection_made(transport)
        if not self._guard.add(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._guard.remove(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what a client has sent."""
        if self._is_refused:
            return
        self._guard.begin(self)
        super().data_received(data)

    def _note_event(self, event: h11.Event) -> None:
        if isinstance(event, h11.Request):
            path = event.target.partition(b"?")[0].decode("ascii")
            if self._guard.is_reserve(self) and path not in PROBES:
                reason = "All connections are in use; only probes are answered on further ones."
                raise h11.RemoteProtocolError(reason, error_status_hint=503)
            self._guard.move(self, Phase.SENDING)
        elif isinstance(event, h11.EndOfMessage):
            has_answer = self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)  # before the body had arrived
            self._guard.move(self, Phase.IDLE if has_answer else Phase.ANSWERING)

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that nobody wants."""
        self._guard.move(self, Phase.ENDING if self.conn.their_state is h11.SEND_BODY else Phase.IDLE)
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._guard.begin(self)

    def shutdown(self) -> None:
        """Close the connection when its request has been answered."""
        if self._is_refused:
            self.transport.abort()
        else:
            super().shutdown()

    # -- what the guard may do -----------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def give_up(self) -> None:
        """Close a connection that took too long to send its request, with 408 if it has sent a part of it."""
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, "The headers of the request did not arrive in time.")
        else:
            self.transport.abort()

    def count_buffered(self) -> int:
        """Return the number of bytes that wait for the client."""
        return self.transport.get_write_buffer_size()

    # -- refusals without the application ------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Refuse what h11 or ``BoundedConnection`` does not accept."""
        error = self.conn.refusal
        status = 400 if error is None else error.error_status_hint
        self._load.count_closed(_CODES.get(status, "bad_request"))
        self._refuse(status, f"The request is no valid HTTP: {msg if error is None else error}".rstrip(".") + ".")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer a problem and end the connection; without an answer when another one is under way."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or (
            self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        ):
            self.transport.abort()
            return
        self._is_refused = True
        problem = make_problem(status, _CODES.get(status, "bad_request"), reason, hint=_HINTS.get(status))
        body = orjson.dumps(problem)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *list_headers("", {}),
        ]
        phrase = problem["title"].encode()
        answer = h11.Response(status_code=status, headers=headers, reason=phrase)
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # what reads the body of this request
            self.cycle.message_event.set()
        # Closed at once, the system would throw away the answer of a client that is still sending.
        self.flow.resume_reading()
        self.transport.write_eof()
        self._guard.move(self, Phase.ENDING)
