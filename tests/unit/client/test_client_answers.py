"""What a client makes of responses: those of newer and older services, errors, and of others than the service."""

from __future__ import annotations

import datetime as dt
import pickle
from collections.abc import Iterator
from enum import Enum
from typing import Any

import httpx
import orjson
import pytest
from pydantic import BaseModel

from ingestion_engine.cli.output import write_json
from ingestion_engine.client import (
    ApiError,
    ApiUnreachable,
    Conflict,
    IngestClient,
    InvalidRequest,
    JobRequest,
    NotAllowed,
    NotFound,
    RateLimited,
    Source,
    Unauthenticated,
    Unavailable,
)
from ingestion_engine.client.errors import read_retry_after
from ingestion_engine.domain.names import OpenName
from ingestion_engine.domain.spec import EngineName, StoreName
from ingestion_engine.domain.states import FINAL_STATES, JobState
from ingestion_engine.models.view import View
from support.client_views import LINKS, job_body
from support.clients import AnyClient, Script, Serve, answer, answer_of, problem
from support.control import make_contract


def test_a_newer_service_is_read(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Fields are kept, also by the command; names of states, engines and stores are what they are."""
    body = job_body(state="hibernating", engine="dask", cost={"eur": 3})
    client, _, _ = serve(answer(body=body))
    job = client.get_job("job-1")
    assert (job.state, job.engine, job.cost) == ("hibernating", "dask", {"eur": 3})
    assert isinstance(job.state, JobState)
    assert job.state not in FINAL_STATES
    assert not job.state.is_final
    write_json(job)
    assert orjson.loads(capsys.readouterr().out) == body
    contract = {**make_contract().model_dump(mode="json"), "quantization": "int8", "stores": ["qdrant", "milvus"]}
    stores = {"milvus": {"points": 3, "error": None}}
    client, _, _ = serve(answer(body={"name": "notes", "contract": contract, "stores": stores, "objects": None}))
    collection = client.get_collection("notes")
    assert collection.contract.stores == ("qdrant", "milvus")
    assert collection.stores["milvus"].points == 3
    assert collection.contract.model_extra == {"quantization": "int8"}


def test_unknown_names_are_read_by_clients_only() -> None:
    """The service goes on to refuse them, also in a process that has a client."""
    with IngestClient("http://s", transport=httpx.MockTransport(Script(answer(body=job_body(state="new"))))) as client:
        assert client.get_job("job-1").state == "new"
    for name in (JobState, EngineName, StoreName):
        with pytest.raises(ValueError, match="new"):
            name("new")


def models_of_answers() -> Iterator[type[BaseModel]]:
    """Yield every model that a response may hold."""
    waiting, seen = list(View.__subclasses__()), set[type]()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        yield model
        waiting += model.__subclasses__()
        for field in model.model_fields.values():
            waiting += [kind for kind in kinds_of(field.annotation) if issubclass(kind, BaseModel)]


def kinds_of(annotation: Any) -> Iterator[type]:
    arguments = getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and not arguments:
        yield annotation
    for one in arguments:
        yield from kinds_of(one)


def test_every_enumeration_of_a_response_can_grow() -> None:
    """So that a later release may add a name."""
    found = {
        kind
        for model in models_of_answers()
        for field in model.model_fields.values()
        for kind in kinds_of(field.annotation)
        if issubclass(kind, Enum)
    }
    assert {JobState, EngineName, StoreName} <= found
    assert [kind for kind in found if not issubclass(kind, OpenName)] == []


def test_an_older_service_is_read(kind: str) -> None:
    """Bodies of version 0.1.0: what it does not send has a default."""
    job = job_body(state="running")
    del job["queued_s"]
    names = ("name", "collection", "previous", "dropping", "settled", "job_id", "moved_at", "stores")
    alias = dict(zip(names, ("live", "notes", [], [], True, "job-1", "2026-01-01T00:00:00Z", {}), strict=True))
    contract = make_contract().model_dump(mode="json", exclude={"bucket"})
    collection = {"name": "notes", "contract": contract, "stores": {}, "objects": None}
    dependency = {"ok": True, "required": True, "latency_ms": 1.0}
    accepted = {"job_id": "a", "engine": "ray", "state": "queued", "collection": "n", "alias": None, "links": LINKS}
    hit = {"point_id": "1", "score": 1.0, "key": "a", "text": "t"}
    found = {"collection": "n", "alias": None, "model": "m", "errors": {}, "took_ms": 1.0}
    script = Script(
        answer(body=job),
        answer(body={"items": [alias]}),
        answer(body={"items": [collection]}),
        answer(body={"items": [{"key": "a", "state": "present"}], "next_cursor": None}),
        answer(body={"status": "ready", "dependencies": {"s3": dependency}}),
        answer(body=accepted),
        answer(body={**found, "results": {"qdrant": [hit]}}),
        answer(body={"items": [{"key": "a", "code": "c"}], "next_cursor": None}),
    )
    client = AnyClient(kind, "http://service", transport=httpx.MockTransport(script))
    assert client.get_job("job-1").queued_s == 0
    assert client.list_aliases()[0].name == "live"
    assert client.list_collections()[0].contract.bucket is None
    assert client.list_objects("notes").items[0].warnings == []
    assert client.check_ready().drain is None
    assert client.submit({}).state == "queued"
    assert client.search("n", "q").results[StoreName.QDRANT][0].text == "t"
    assert [failure.reason for failure in client.iter_failures("a")] == [None]


def test_pages_of_aliases_are_read_to_the_last(kind: str) -> None:
    names = ("name", "collection", "previous", "dropping", "settled", "job_id", "moved_at", "stores")
    values = ("notes", [], [], True, "job-1", "2026-01-01T00:00:00Z", {})
    first, second = (dict(zip(names, (name, *values), strict=True)) for name in ("a", "b"))
    script = Script(answer(body={"items": [first], "next_cursor": "a"}), answer(body={"items": [second]}))
    client = AnyClient(kind, "http://service", transport=httpx.MockTransport(script))
    assert [alias.name for alias in client.iter_aliases()] == ["a", "b"]
    assert [request.url.query for request in script.requests] == [b"limit=100", b"limit=100&cursor=a"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequest),
        (422, InvalidRequest),
        (401, Unauthenticated),
        (403, NotAllowed),
        (404, NotFound),
        (409, Conflict),
        (429, RateLimited),
        (503, Unavailable),
        (500, ApiError),
    ],
)
def test_errors_have_a_class_by_what_can_be_done(serve: Serve, status: int, expected: type[ApiError]) -> None:
    """All members of the problem, the id of the request and when to try again."""
    error = {"pointer": "/a", "detail": "Wrong.", "code": "x"}
    body = problem(status, "some_code", hint="Do this.", field="a", errors=[error, {"odd": 1}], limit=3)
    client, script, _ = serve(answer(status, body, x_request_id="r1", retry_after="7"), patience_s=0)
    with pytest.raises(ApiError) as caught:
        client.get_job("job-1")
    raised = caught.value
    assert type(raised) is expected
    for found in (raised, pickle.loads(pickle.dumps(raised))):
        assert (str(found), found.status, found.code, found.hint) == ("No.", status, "some_code", "Do this.")
        assert (found.field, found.request_id, found.retry_after_s) == ("a", "r1", 7.0)
        assert [(one.pointer, one.detail) for one in found.errors] == [("/a", "Wrong.")]
        assert found.problem["limit"] == 3
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(200, text="<html>Log in</html>"), "did not return JSON; it is not the service"),
        (httpx.Response(200, json=[1]), "did not return JSON; it is not the service"),
        (httpx.Response(200, json={"job_id": 1}), "does not understand: job_id"),
        (httpx.Response(302, headers={"Location": "/login"}), "returned HTTP 302, not an error of the service"),
        (httpx.Response(404, text="nginx"), "returned HTTP 404, not an error of the service"),
        (httpx.Response(400, json=["odd"]), "returned HTTP 400, not an error of the service"),
    ],
)
def test_others_than_the_service_are_named(kind: str, response: httpx.Response, said: str) -> None:
    """With the URL, without its password, and without what they sent."""
    script = Script(answer_of(response))
    transport = httpx.MockTransport(script)
    with (
        AnyClient(kind, "http://me:secret@host/ingest/", transport=transport, patience_s=0) as client,
        pytest.raises(ApiError) as caught,
    ):
        client.get_job("job-1")
    assert said in str(caught.value)
    assert "http://host/ingest/jobs/job-1" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert script.requests[0].url.path == "/ingest/jobs/job-1"


@pytest.mark.parametrize("key", ["clé", "a\nb", "a secret ", "a\x1bb"])
def test_a_key_that_no_header_holds_is_not_shown(kind: str, key: str) -> None:
    """Libraries below would print it in their error."""
    with pytest.raises(ValueError, match="The API key contains") as caught:
        AnyClient(kind, "http://service", key)
    assert key not in str(caught.value)


def test_a_url_with_a_password_is_not_shown(kind: str) -> None:
    """Neither when the service is unreachable, nor when the URL is none."""
    with (
        AnyClient(kind, "http://me:secret@host", transport=httpx.MockTransport(Script(httpx.ConnectError("refused"))),
                  patience_s=0) as client,
        pytest.raises(ApiUnreachable, match="The service at http://host is unreachable: refused") as caught,
    ):  # fmt: skip
        client.get_job("job-1")
    assert "secret" not in str(caught.value)
    with pytest.raises(ApiUnreachable) as caught:
        AnyClient(kind, "http://me:secret@host:port")
    assert "secret" not in str(caught.value)


def test_user_and_password_of_a_url_authenticate(serve: Serve) -> None:
    """Unless an API key does; they are in no URL, which libraries log."""
    for options, sent in (({}, "Basic bWU6cyNjcmV0"), ({"api_key": "key"}, "Bearer key")):
        client, script, _ = serve(answer(body=job_body()), url="http://me:s%23cret@host/engine", **options)
        client.get_job("job-1")
        assert script.requests[0].headers["authorization"] == sent
        assert str(script.requests[0].url) == "http://host/engine/jobs/job-1"


def test_requests_are_sent_as_they_are(serve: Serve) -> None:
    """Of a model what was set, of a mapping everything; nulls in queries and headers are left out."""
    accepted = {"job_id": "a", "engine": "ray", "state": "queued", "collection": "n", "alias": None, "links": LINKS}
    client, script, _ = serve(answer(body=accepted))
    client.submit(JobRequest(source=Source(bucket="docs"), collection="notes"), engine=EngineName.SPARK)
    client.submit({"anything": 1}, idempotency_key="mine")
    client.delete_objects("a/b", prefix="", everything=True)
    first, second, third = script.requests
    assert (first.url.path, first.content) == ("/spark/jobs", b'{"source":{"bucket":"docs"},"collection":"notes"}')
    assert (second.headers["idempotency-key"], second.content) == ("mine", b'{"anything":1}')
    assert len(first.headers["idempotency-key"]) == 32
    assert first.headers["idempotency-key"] != third.headers["idempotency-key"]
    assert (third.url.raw_path, third.method) == (b"/collections/a%2Fb/objects?prefix=&all=true", "DELETE")
    assert first.headers["user-agent"].startswith("ingestion-engine/")


def test_when_to_try_again_is_a_number_or_a_date() -> None:
    """Anything else is ignored."""
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    read = {text: read_retry_after(text, now) for text in ("3", "0", "Thu, 01 Jan 2026 00:00:09 GMT", "-1", "soon", "")}
    assert list(read.values()) == [3.0, 0.0, 9.0, None, None, None]
    assert read_retry_after("Thu, 01 Jan 2020 00:00:00 GMT", now) == 0
    assert read_retry_after(None, now) is None
