"""A job is followed to its end by its events, through broken streams, and by polling where events are stuck."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ingestion_engine.client import ApiUnreachable, NotFound, Unauthenticated
from ingestion_engine.client.core import STREAM_SILENCE_S
from ingestion_engine.client.events import Event, EventReader
from support.client_views import job_body
from support.clients import Clock, Serve, answer, events, problem

QUEUED, RUNNING = job_body(), job_body(state="running", attempt=1)
DONE = job_body(state="succeeded", attempt=1)


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces, and may break."""

    def __init__(self, *pieces: bytes | Exception | Any) -> None:
        self.pieces = pieces
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if callable(piece):
                piece()
            elif isinstance(piece, Exception):
                raise piece
            else:
                yield piece

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.is_closed = True


def stream(*pieces: Any, content_type: str = "text/event-stream; charset=utf-8") -> Any:
    """An answer that is a stream; each request for it gets a new one."""
    return lambda _request: httpx.Response(200, headers={"content-type": content_type}, stream=Stream(*pieces))


def states(jobs: Any) -> list[str]:
    return [job.state.value for job in jobs]


def test_events_are_followed_to_the_end(serve: Serve) -> None:
    """What the request for the job has shown is not repeated; the connection is released."""
    body = Stream(events(QUEUED, RUNNING), b": heartbeat\n\n", events(DONE))

    def open_stream(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body)

    client, script, clock = serve(answer(body=QUEUED), open_stream)
    assert states(client.watch("job-1")) == ["queued", "running", "succeeded"]
    assert script.paths == ["GET /jobs/job-1", "GET /jobs/job-1/events"]
    assert clock.pauses == []
    assert body.is_closed
    client, script, _ = serve(answer(body=DONE))
    assert states(client.watch("job-1")) == ["succeeded"]
    assert client.wait("job-1").state == "succeeded"
    assert script.paths == ["GET /jobs/job-1"] * 2


def test_a_follower_that_stops_releases_the_connection(serve: Serve) -> None:
    """Also in the middle of a stream."""
    body = Stream(events(RUNNING), events(RUNNING), events(DONE))
    client, _, _ = serve(
        answer(body=QUEUED),
        lambda _request: httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body),
    )
    for job in client.watch("job-1"):
        if job.state == "running":
            break
    del job
    assert body.is_closed


@pytest.mark.parametrize(
    "failure", [httpx.ReadError("reset"), httpx.RemoteProtocolError("peer closed"), httpx.ReadTimeout("silent"), b""]
)
def test_a_stream_that_breaks_is_opened_again(serve: Serve, failure: Any) -> None:
    """With the id of the last event; after the pause that the service wishes; what happened meanwhile is seen."""
    client, script, clock = serve(
        answer(body=QUEUED),
        stream(events(QUEUED, RUNNING), failure),
        answer(body=RUNNING),
        stream(events(RUNNING, DONE)),
    )
    assert states(client.watch("job-1")) == ["queued", "running", "succeeded"]
    first, second = script.requests[1], script.requests[3]
    assert "last-event-id" not in first.headers
    assert second.headers["last-event-id"] == "1"
    assert first.headers["accept"] == "text/event-stream"
    assert clock.pauses == [2.0]


def test_a_restart_of_the_service_is_waited_for(serve: Serve) -> None:
    """Refused connections, errors of proxies and of the service, for as long as the patience."""
    outage = [httpx.ConnectError("refused"), answer(502), answer(503, problem(503, "database_unavailable"))]
    client, _, clock = serve(answer(body=QUEUED), stream(httpx.ReadError("reset")), *outage, answer(body=DONE))
    assert states(client.watch("job-1")) == ["queued", "succeeded"]
    assert len(clock.pauses) == 4
    client, _, clock = serve(answer(body=QUEUED), stream(httpx.ReadError("reset")), httpx.ConnectError("refused"))
    with pytest.raises(ApiUnreachable):
        client.wait("job-1", patience_s=20)
    assert 15 < sum(clock.pauses) <= 21


def test_a_proxy_that_keeps_events_does_not_hide_the_job(serve: Serve) -> None:
    """The job is shown at once, then polled: a stream silent for longer than a heartbeat is not opened again."""
    client, script, clock = serve(
        answer(body=QUEUED),
        stream(lambda: clock.sleep(STREAM_SILENCE_S), httpx.ReadTimeout("")),
        answer(body=RUNNING),
        answer(body=RUNNING),
        answer(body=DONE),
    )
    assert states(client.watch("job-1")) == ["queued", "running", "succeeded"]
    assert script.paths.count("GET /jobs/job-1/events") == 1
    assert script.requests[1].extensions["timeout"]["read"] == STREAM_SILENCE_S


@pytest.mark.parametrize(
    "odd",
    [
        stream(b"<html>Log in</html>", content_type="text/html"),
        stream(b"data: not json\n\n"),
        stream(b'data: {"job_id": 1}\n\n'),
        answer(404, problem(404, "not_found")),
        answer(429, problem(429, "rate_limited"), retry_after="9"),
        answer(503, problem(503, "too_many_streams")),
    ],
)
def test_what_is_no_stream_is_polled_instead(serve: Serve, odd: Any) -> None:
    """A follower does not insist."""
    client, script, clock = serve(answer(body=QUEUED), odd, answer(body=RUNNING), answer(body=DONE))
    assert states(client.watch("job-1")) == ["queued", "running", "succeeded"]
    assert script.paths.count("GET /jobs/job-1/events") == 1
    assert sum(clock.pauses) < 10


def test_errors_of_the_job_are_raised(serve: Serve) -> None:
    """At once: waiting does not change them, not even when the time is over."""
    for status, expected in ((404, NotFound), (401, Unauthenticated)):
        for options in ({}, {"timeout_s": 0}):
            client, script, _ = serve(answer(status, problem(status, "code")))
            with pytest.raises(expected):
                client.wait("job-1", **options)
            assert len(script.requests) == 1
    client, _, _ = serve(
        answer(body=QUEUED), stream(events(RUNNING), httpx.ReadError("")), answer(401, problem(401, "revoked"))
    )
    with pytest.raises(Unauthenticated):
        list(client.watch("job-1"))


@pytest.mark.parametrize("timeout_s", [0, 0.1, 5, 25, 100])
def test_waiting_ends_in_time(serve: Serve, timeout_s: float) -> None:
    """With the state of the job, however silent its stream is: near the end it is polled."""
    clocks: list[Clock] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            heartbeats = [lambda: clocks[0].sleep(15), b": heartbeat\n\n"] * 20
            return stream(events(RUNNING), *heartbeats)(request)
        return answer(body=RUNNING)(request)

    client, _, clock = serve(respond)
    clocks.append(clock)
    began = clock.now
    with pytest.raises(TimeoutError, match=f"'job-1' has not ended within {timeout_s:g} s; it is running"):
        client.wait("job-1", timeout_s=timeout_s)
    assert timeout_s <= clock.now - began < timeout_s + 1


def test_waiting_for_a_service_that_is_gone_ends_in_time(serve: Serve) -> None:
    """The time limit counts, not the patience; a request takes no longer than what is left."""
    client, script, clock = serve(httpx.ConnectError("refused"))
    began = clock.now
    with pytest.raises(TimeoutError, match="it is unknown"):
        client.wait("job-1", timeout_s=5)
    assert clock.now - began < 6
    assert script.requests[-1].extensions["timeout"]["connect"] < 5


def test_an_unchanged_job_is_not_repeated(serve: Serve) -> None:
    """Its age and what only one of the two routes shows are no change."""
    views = [
        {**RUNNING, "queued_s": 1.0, "duration_s": age, "throughput": [] if age % 2 else None} for age in range(1, 4)
    ]
    client, _, _ = serve(
        answer(body=views[0]), stream(events(*views, ids=False), httpx.ReadError("")), answer(body=DONE)
    )
    assert states(client.watch("job-1")) == ["running", "succeeded"]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_are_read_however_they_are_cut(size: int) -> None:
    """Every end of a line, several lines of data, comments, ids and pauses; no other line break of Unicode."""
    text = (
        "retry: 1500\r\n: hello\r\n\r\nid: 7\nevent: state\ndata: one\ndata:two\n\ndata: a\u2028b\x85c\x0bd\n\n"
        "event: odd\n\nid\ndata\n\nid: 9\ndata: cut off"
    )
    data = text.encode()
    reader = EventReader("6")
    found = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
    assert found == [Event(b"one\ntwo", "state"), Event("a\u2028b\x85c\x0bd".encode()), Event(b"")]
    assert reader.retry_s == 1.5


def test_a_key_with_a_line_break_of_unicode_does_not_break_the_stream(serve: Serve) -> None:
    """The service's JSON has it as it is."""
    note = "S3 refused 'a\u2028b.txt'\x85."
    client, _, clock = serve(answer(body=QUEUED), stream(events({**RUNNING, "note": note}, DONE)), answer(body=DONE))
    assert [job.note for job in client.watch("job-1")] == [None, note, None]
    assert clock.pauses == []
