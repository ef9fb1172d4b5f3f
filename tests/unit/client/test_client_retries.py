"""What is sent again, after how long, and what never is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ingestion_engine.client import ApiError, ApiUnreachable, RateLimited, Unavailable
from ingestion_engine.client.retries import PAUSE_MAX_S
from support.client_views import LINKS, job_body
from support.clients import Serve, answer, answer_of, problem

ACCEPTED = {"job_id": "a", "engine": "ray", "state": "queued", "collection": "n", "alias": None, "links": LINKS}
ALIAS = {"name": "live", "collection": "a", "previous": [], "dropping": [], "settled": True, "job_id": "j"}
ALIAS |= {"moved_at": "2026-01-01T00:00:00Z", "stores": {}}
BROKEN = httpx.RemoteProtocolError("Server disconnected without sending a response.")
REFUSED = httpx.ConnectError("Connection refused")
BUSY = answer(429, problem(429, "rate_limited"), retry_after="3")
RESTARTING = answer(503, problem(503, "stopping"), retry_after="2")
PROXY = answer_of(httpx.Response(502, text="Bad gateway"))

REPEATABLE = {
    "get": ("get_job", ("job-1",), answer(body=job_body())),
    "search": ("search", ("notes", "q"), answer(body={"collection": "n", "alias": None, "model": "m", "results": {},
                                                      "errors": {}, "took_ms": 1.0})),
    "submit": ("submit", ({},), answer(body=ACCEPTED)),
    "retry": ("retry", ("job-1",), answer(body=ACCEPTED)),
    "rollback": ("roll_back_alias", ("live",), answer(body=ALIAS)),
    "cancel": ("cancel", ("job-1",), answer(body=job_body())),
    "drain": ("start_drain", (), answer(body={"draining": True, "under_way": 0, "waiting": 0, "jobs": []})),
}  # fmt: skip
UNREPEATABLE = {
    "delete": ("delete_collection", ("notes",), answer(body={"collection": "notes", "deleted": True, "note": None})),
    "prune": ("prune_alias", ("live",), answer(body={**ALIAS, "dropped": []})),
    "remove": ("remove_alias", ("live",), answer(204)),
}


@pytest.mark.parametrize("name", REPEATABLE)
@pytest.mark.parametrize("failure", [BROKEN, REFUSED, BUSY, RESTARTING, PROXY, httpx.ReadTimeout("")])
def test_what_a_repetition_cannot_harm_is_sent_again(serve: Serve, name: str, failure: Any) -> None:
    """The same request: body, query and key."""
    method, arguments, success = REPEATABLE[name]
    client, script, _ = serve(failure, failure, success)
    getattr(client, method)(*arguments)
    first, second, third = script.requests
    for again in (second, third):
        assert (again.method, again.url, again.content) == (first.method, first.url, first.content)
        assert again.headers.get("idempotency-key") == first.headers.get("idempotency-key")


@pytest.mark.parametrize("name", UNREPEATABLE)
def test_what_a_repetition_could_change_is_sent_once(serve: Serve, name: str) -> None:
    """Unless it was not sent, or was refused unprocessed."""
    method, arguments, success = UNREPEATABLE[name]
    for failure in (BROKEN, RESTARTING, PROXY, httpx.ReadTimeout("late"), httpx.WriteError("reset")):
        client, script, _ = serve(failure, success)
        with pytest.raises((ApiError, ApiUnreachable)):
            getattr(client, method)(*arguments)
        assert len(script.requests) == 1
    for failure in (REFUSED, BUSY, httpx.ConnectTimeout("late")):
        client, script, _ = serve(failure, success)
        getattr(client, method)(*arguments)
        assert len(script.requests) == 2


def test_refusals_are_not_sent_again(serve: Serve) -> None:
    """Neither those of the request, nor those that name no time."""
    for status in (400, 401, 403, 404, 409, 422, 500, 501):
        client, script, clock = serve(answer(status, problem(status, "code"), retry_after="1"))
        with pytest.raises(ApiError):
            client.get_job("job-1")
        assert (len(script.requests), clock.pauses) == (1, [])
    for status in (429, 503):
        client, script, _ = serve(answer(status, problem(status, "quota_exceeded")))
        with pytest.raises(ApiError):
            client.get_job("job-1")
        assert len(script.requests) == 1


def test_patience_ends(serve: Serve) -> None:
    """By the time since the first failure; pauses grow, and none is as long as an eternity."""
    client, script, clock = serve(REFUSED, patience_s=30)
    with pytest.raises(ApiUnreachable, match="http://service is unreachable: Connection refused"):
        client.get_job("job-1")
    assert 20 < sum(clock.pauses) <= 30
    assert clock.pauses[0] <= 0.5
    assert max(clock.pauses) <= PAUSE_MAX_S
    assert len(script.requests) == len(clock.pauses) + 1
    for options in ({"patience_s": 0}, {"connect_patience_s": 0}):
        client, script, clock = serve(REFUSED, **options)
        with pytest.raises(ApiUnreachable):
            client.get_job("job-1")
        assert (len(script.requests), clock.pauses) == (1, [])
    client, script, _ = serve(BROKEN, answer(body=job_body()), connect_patience_s=0)
    assert client.get_job("job-1").job_id == "job-1"


def test_the_services_time_is_kept(serve: Serve) -> None:
    """Not shorter; when it is longer than the patience, the error comes at once and says how long."""
    client, _, clock = serve(BUSY, RESTARTING, answer(body=job_body()))
    client.get_job("job-1")
    assert clock.pauses == [3, 2]
    late = answer(429, problem(429, "rate_limited"), retry_after="31")
    client, script, clock = serve(late, answer(body=job_body()))
    with pytest.raises(RateLimited) as caught:
        client.get_job("job-1")
    assert (caught.value.retry_after_s, len(script.requests), clock.pauses) == (31, 1, [])


@pytest.mark.parametrize("error", [httpx.UnsupportedProtocol("no http://"), httpx.LocalProtocolError("odd")])
def test_defects_are_not_sent_again(serve: Serve, error: Exception) -> None:
    """The same request would meet them again."""
    client, script, _ = serve(error)
    with pytest.raises(ApiUnreachable):
        client.get_job("job-1")
    assert len(script.requests) == 1


def test_pages_are_sent_again_one_by_one(serve: Serve) -> None:
    """A list that is read to its end goes on where it was."""
    pages = [answer(body={"items": [{"key": key, "code": "c"}], "next_cursor": after}) for key, after in
             (("a", "1"), ("b", "2"), ("c", None))]  # fmt: skip
    client, script, _ = serve(pages[0], BROKEN, pages[1], BUSY, pages[2])
    assert [item.key for item in client.iter_failures("job-1", codes=["c", "d"])] == ["a", "b", "c"]
    queries = [request.url.query for request in script.requests]
    cursors = [b"", b"&cursor=1", b"&cursor=1", b"&cursor=2", b"&cursor=2"]
    assert queries == [b"code=c&code=d&limit=1000" + cursor for cursor in cursors]


def test_readiness_is_read_from_a_refusal(serve: Serve) -> None:
    """503 is an answer of this route, but not of a proxy."""
    client, script, _ = serve(answer(503, {"status": "unavailable", "dependencies": {}}))
    assert client.check_ready().status == "unavailable"
    client, script, _ = serve(answer_of(httpx.Response(503, text="no upstream")), patience_s=0)
    with pytest.raises(ApiError, match="did not return JSON"):
        client.check_ready()
    assert len(script.requests) == 1


def test_an_outage_that_lasts_is_raised_as_such(serve: Serve) -> None:
    """The last refusal, with its code."""
    client, _, clock = serve(RESTARTING)
    with pytest.raises(Unavailable) as caught:
        client.submit({})
    assert (caught.value.code, sum(clock.pauses)) == ("stopping", 30)
