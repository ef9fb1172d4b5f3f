"""The HTTP API of jobs, over a service with working doubles."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import orjson
import pytest

from ingestion_engine.api.examples import JOB_EXAMPLES
from ingestion_engine.domain.errors import TlsFailed, TransientError
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.domain.states import JobState
from ingestion_engine.services import job_feed, preflight
from ingestion_engine.state.collections import create_contract
from ingestion_engine.state.ledger import Ledger
from support.control import BODY, World, make_contract, unreachable


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_submission_is_answered_with_202_and_a_location(world: World) -> None:
    """The body names job, engine, state and links; the header points to the job."""
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json=BODY)
        body = answer.json()
        assert answer.status_code == 202
        assert body["engine"] == "ray"
        assert body["state"] == "queued"
        assert answer.headers["location"] == f"/jobs/{body['job_id']}" == body["links"]["self"]
        assert (await plane.client.get(answer.headers["location"])).json()["request"]["chunking"]["max_chars"] == 1200


@pytest.mark.parametrize("name", JOB_EXAMPLES)
async def test_every_documented_example_is_accepted(world: World, name: str) -> None:
    """Every example of the OpenAPI document is accepted unchanged."""
    if name == "verify":
        create_contract(world.state, make_contract("handbook"))
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json=JOB_EXAMPLES[name]["value"])
        assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"collection": ""}, "collection"),
        ({"collection": "9lives"}, "collection"),
        ({"source": {}}, "source.bucket"),
        ({"source": {"bucket": "docs", "prefx": "a"}}, "source.prefx"),
        ({"parallelism": -1}, "parallelism"),
        ({"stores": []}, "stores"),
        ({"stores": ["qdrant", "milvus"]}, "stores.1"),
        ({"mode": "verify-ish"}, "mode"),
        ({"chunking": {"max_chars": 100, "overlap_chars": 90}}, "chunking"),
    ],
)
async def test_a_malformed_request_names_the_field(world: World, change: dict[str, object], field: str) -> None:
    """422 as problem+json with code, field, and a pointer for every fault; nothing is stored."""
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json={**BODY, **change})
        problem = answer.json()
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["code"] == "validation_error"
        assert problem["type"] == "urn:ingestion-engine:problem:validation_error"
        assert problem["field"] == field
        assert problem["errors"][0]["pointer"] == "/" + field.replace(".", "/")
        assert (await plane.client.get("/jobs")).json()["items"] == []


async def test_all_faults_of_a_request_are_listed_at_once(world: World) -> None:
    """One response lists all errors of a request."""
    async with world.serve() as plane:
        problem = (await plane.client.post("/ray/jobs", json={"parallelism": 0, "x": 1})).json()
        assert {error["pointer"] for error in problem["errors"]} == {"/source", "/collection", "/parallelism", "/x"}


async def test_a_body_that_is_not_json_says_where(world: World) -> None:
    """The error contains the position in the body."""
    async with world.serve() as plane:
        headers = {"content-type": "application/json"}
        answer = await plane.client.post("/ray/jobs", content=b'{"source": ', headers=headers)
        assert answer.status_code == 422
        assert "not JSON" in answer.json()["detail"]


async def test_a_body_declared_as_a_form_is_told_so(world: World) -> None:
    """The default content type of curl is refused with the header to send."""
    async with world.serve() as plane:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await plane.client.post("/ray/jobs", content=orjson.dumps(BODY), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "not_json")
        assert answer.json()["hint"] == "Send the header content-type: application/json."


async def test_an_unknown_bucket_is_refused(world: World) -> None:
    """The refusal of another system is returned with the field and a hint."""
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json={**BODY, "source": {"bucket": "nowhere"}})
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["field"]) == (422, "bucket_not_found", "source.bucket")
        assert "INGEST_S3__ENDPOINT_URL" in problem["hint"]


async def test_a_model_that_ollama_does_not_have_is_refused(world: World) -> None:
    """The hint has the command that installs it."""
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json={**BODY, "embedding": {"model": "missing"}})
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["field"]) == (422, "model_not_found", "embedding.model")
        assert "ollama pull" in problem["hint"]


async def test_several_systems_refusals_come_together(world: World) -> None:
    """Bucket and model are checked concurrently, and both are in the response."""
    async with world.serve() as plane:
        body = {**BODY, "source": {"bucket": "nowhere"}, "embedding": {"model": "missing"}}
        problem = (await plane.client.post("/ray/jobs", json=body)).json()
        assert [error["code"] for error in problem["errors"]] == ["bucket_not_found", "model_not_found"]


@pytest.mark.parametrize(
    ("made", "requested", "field", "values"),
    [
        ({"model": "other"}, {}, "embedding.model", ("other", "all-minilm")),
        ({"model_digest": "sha256:old"}, {}, "embedding.model", ("sha256:old", "sha256:hash")),
        ({}, {"chunking": {"max_chars": 500}}, "chunking.max_chars", ("1200", "500")),
        ({}, {"stores": ["qdrant"]}, "stores", ("['qdrant', 'weaviate']", "['qdrant']")),
        ({}, {"embedding": {"prefix": "doc: "}}, "embedding.prefix", ("''", "'doc: '")),
    ],
)
async def test_a_request_that_differs_from_its_collection_is_refused(
    world: World, made: dict[str, object], requested: dict[str, object], field: str, values: tuple[str, str]
) -> None:
    """409, naming the field and both values."""
    create_contract(world.state, make_contract(**made))
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json={**BODY, **requested})
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["field"]) == (409, "contract_mismatch", field)
        assert all(value in problem["detail"] for value in values)


async def test_a_name_that_differs_in_case_only_is_refused(world: World) -> None:
    """Weaviate does not distinguish the two names."""
    create_contract(world.state, make_contract("Notes"))
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json=BODY)
        assert answer.status_code == 409
        assert answer.json()["code"] == "collection_name_taken"
        assert answer.json()["existing"] == "Notes"


async def test_what_is_not_configured_is_refused(world: World) -> None:
    """The error for a system without settings names the variable to set."""
    async with world.serve(world.parts(stores={StoreName.QDRANT: world.qdrant})) as plane:
        answer = await plane.client.post("/ray/jobs", json=BODY)
        assert (answer.status_code, answer.json()["code"]) == (422, "store_not_configured")
        assert answer.json()["field"] == "stores"
        for path in ("/spark/jobs", "/spark/manifest"):
            answer = await plane.client.post(path, json={**BODY, "stores": ["qdrant"]})
            assert (answer.status_code, answer.json()["code"]) == (501, "engine_not_configured")
            assert "INGEST_SPARK__NAMESPACE" in answer.json()["hint"]


async def test_systems_that_are_away_do_not_refuse_a_job(world: World) -> None:
    """The submission is accepted; the driver checks the systems again."""

    async def describe(_model: str, **_: object) -> None:
        raise TransientError("embedder_unavailable", "no answer")

    world.embedder.describe = describe  # type: ignore[method-assign,assignment]
    async with world.serve() as plane:
        assert (await plane.client.post("/ray/jobs", json=BODY)).status_code == 202


async def test_a_certificate_that_is_not_accepted_refuses_a_job(world: World) -> None:
    """Waiting does not help, so the caller gets the reason at once."""

    async def describe(_model: str, **_: object) -> None:
        raise TlsFailed("tls_failed", "The certificate of Ollama is not trusted.", hint="Set INGEST_TLS__CA_FILE.")

    world.embedder.describe = describe  # type: ignore[method-assign,assignment]
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json=BODY)
        assert (answer.status_code, answer.json()["code"]) == (503, "tls_failed")
        assert "INGEST_TLS__CA_FILE" in answer.json()["hint"]


async def test_a_system_that_hangs_delays_one_submission_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is accepted when the time for checks is over; the next checks skip that system."""
    described = []

    async def describe(model: str, **_: object) -> None:
        described.append(model)
        await asyncio.Event().wait()

    monkeypatch.setattr(preflight, "TIME_LIMIT_S", 0.05)
    world.embedder.describe = describe  # type: ignore[method-assign,assignment]
    async with world.serve() as plane:
        for _ in range(2):
            assert (await plane.client.post("/ray/jobs", json=BODY)).status_code == 202
        assert described == ["all-minilm"]


async def test_a_submission_does_not_wait_for_its_engine(world: World) -> None:
    """202 while every call of the engine hangs: only the dispatcher waits."""
    submitting = asyncio.Event()

    async def hang(*_: object) -> None:
        submitting.set()
        await asyncio.Event().wait()

    for call in ("submit", "status", "check"):
        setattr(world.engine, call, hang)
    async with world.serve(background=True) as plane:
        first = await plane.submit()
        await submitting.wait()
        second = await plane.submit(collection="other")
        assert {(await plane.job(job_id))["state"] for job_id in (first, second)} == {"queued"}


async def test_the_same_idempotency_key_returns_the_first_job(world: World) -> None:
    """Also for concurrent requests; a different body with the same key is refused."""
    async with world.serve() as plane:
        headers = {"Idempotency-Key": "k-1"}
        answers = await asyncio.gather(*(plane.client.post("/ray/jobs", json=BODY, headers=headers) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["job_id"] for answer in answers}) == 1
        assert len((await plane.client.get("/jobs")).json()["items"]) == 1
        other = await plane.client.post("/ray/jobs", json={**BODY, "parallelism": 2}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
        spelled_out = await plane.client.post("/ray/jobs", json={**BODY, "parallelism": 4}, headers=headers)
        assert spelled_out.headers["idempotency-replayed"] == "true"


async def test_lists_are_paged_without_gaps(world: World) -> None:
    """Newest first; jobs that arrive in between neither repeat nor hide others; filters apply."""
    async with world.serve() as plane:
        made = [await plane.submit(collection=f"c{number}") for number in range(7)]
        first = (await plane.client.get("/jobs", params={"limit": 3})).json()
        await plane.submit(collection="late")
        second = (await plane.client.get("/jobs", params={"limit": 3, "cursor": first["next_cursor"]})).json()
        third = (await plane.client.get("/jobs", params={"limit": 3, "cursor": second["next_cursor"]})).json()
        seen = [job["job_id"] for page in (first, second, third) for job in page["items"]]
        assert seen == made[::-1]
        assert third["next_cursor"] is None
        only = (await plane.client.get("/jobs", params={"collection": "c3", "state": ["queued", "failed"]})).json()
        assert [job["job_id"] for job in only["items"]] == [made[3]]
        assert (await plane.client.get("/jobs", params={"state": "running"})).json()["items"] == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/jobs?cursor=%21%21", 422, "validation_error"),
        ("/jobs?cursor=AAAA", 422, "validation_error"),
        ("/jobs?limit=0", 422, "validation_error"),
        ("/jobs?stat=queued", 422, "validation_error"),
        ("/jobs/job-none", 404, "job_not_found"),
        ("/jobs/job-none/failures", 404, "job_not_found"),
        ("/jobs/job-none/events", 404, "job_not_found"),
        ("/jobs/job-none/logs", 404, "job_not_found"),
        ("/nowhere", 404, "not_found"),
        ("/ray/jobs", 405, "method_not_allowed"),
    ],
)
async def test_every_error_is_a_problem(world: World, path: str, status: int, code: str) -> None:
    """Errors of routing are problems too."""
    async with world.serve() as plane:
        answer = await plane.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert answer.headers["x-request-id"]


async def test_the_unexpected_is_a_problem_without_a_traceback(world: World) -> None:
    """The response has the id of the request; the log has the reason."""

    def explode(_bucket: str) -> None:
        raise RuntimeError("secret detail")

    world.bucket.check_bucket = explode  # type: ignore[method-assign]
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json=BODY, headers={"X-Request-Id": "my-id"})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert answer.json()["request_id"] == answer.headers["x-request-id"] == "my-id"
        assert "secret detail" not in answer.text


async def test_a_huge_body_is_refused(world: World) -> None:
    """413 before it is parsed."""
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", content=b'"' + b"x" * 2_000_000 + b'"')
        assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


async def test_failures_are_paged_and_logs_are_text(world: World) -> None:
    """Failures come from the ledger; the log from the engine while it has one, then from the ledger."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        assert (await plane.client.get(f"/jobs/{job_id}/logs")).json()["code"] == "log_not_found"
        await plane.look()
        ledger = Ledger(world.state, job_id)
        items = [{"key": f"k{n}", "code": "parse_failed", "reason": "broken", "retryable": False} for n in range(5)]
        ledger.write_failures("a01-00000", items)
        first = (await plane.client.get(f"/jobs/{job_id}/failures", params={"limit": 3})).json()
        rest = await plane.client.get(f"/jobs/{job_id}/failures", params={"cursor": first["next_cursor"]})
        assert [item["key"] for item in first["items"] + rest.json()["items"]] == [f"k{n}" for n in range(5)]
        assert rest.json()["next_cursor"] is None
        ledger.write_log(1, "from the ledger")
        assert (await plane.client.get(f"/jobs/{job_id}/logs")).text == "from the ledger"
        world.engine.log = "from the engine"
        assert (await plane.client.get(f"/jobs/{job_id}/logs")).text == "from the engine"
        world.engine.away = unreachable()
        answer = await plane.client.get(f"/jobs/{job_id}/logs", params={"attempt": 1})
        assert (answer.text, answer.headers["content-type"]) == ("from the ledger", "text/plain; charset=utf-8")


async def test_retry_makes_a_job_for_exactly_the_failed_objects(world: World) -> None:
    """The keys are written to the state store, their path to the spec; jobs without failures or end are refused."""
    async with world.serve() as plane:
        job_id = await plane.submit(metadata={"team": "docs"})
        await plane.look()
        assert (await plane.client.post(f"/jobs/{job_id}/retry")).json()["code"] == "job_not_final"
        ledger = Ledger(world.state, job_id)
        ledger.write_failures("a01-00000", [{"key": "b"}, {"key": "a"}])
        ledger.write_failures("a01-00001", [{"key": "c"}, {"key": "a"}])
        world.engine.finish(job_id, "partially_succeeded")
        await plane.look()
        answer = await plane.client.post(f"/jobs/{job_id}/retry", headers={"Idempotency-Key": "again"})
        assert answer.status_code == 202
        again = await plane.client.post(f"/jobs/{job_id}/retry", headers={"Idempotency-Key": "again"})
        new_id = answer.json()["job_id"]
        assert again.json()["job_id"] == new_id
        await plane.look()
        spec = Ledger(world.state, new_id).read_spec()
        assert spec.request.retry_failed
        assert spec.request.metadata == {"team": "docs"}
        assert spec.only_keys_path == f"jobs/{new_id}/only_keys.json"
        assert orjson.loads(world.state.values[spec.only_keys_path].data) == ["b", "a", "c"]
        assert (await plane.job(new_id))["retry_of"] == job_id
        world.engine.finish(new_id)
        await plane.look()
        assert (await plane.client.post(f"/jobs/{new_id}/retry")).json()["code"] == "nothing_to_retry"


async def test_events_end_with_the_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream has the current job, then every change, and ends with the job."""
    monkeypatch.setattr(job_feed, "POLL_S", 0.01)
    async with world.serve() as plane:
        job_id = await plane.submit()
        names: list[str] = []
        states: list[str] = []
        async for seen in plane.services.jobs.follow(job_id):
            assert seen is not None
            job = seen[0]
            states.append(job.state.value)
            if job.state is JobState.QUEUED:
                await plane.look()
                world.engine.progress(job_id)
            elif job.state is JobState.RUNNING:
                world.engine.finish(job_id)
            await plane.look()
        seen_states = [state for state, _ in itertools.groupby(states) if state != "submitted"]  # between two looks
        assert seen_states == ["queued", "running", "succeeded"]
        answer = await plane.client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "7"})
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.text.splitlines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if line.startswith("data: "):
                assert orjson.loads(line.removeprefix("data: "))["state"] == "succeeded"
        assert names == ["state"]


async def test_a_log_is_followed_from_the_last_position(world: World) -> None:
    """Whole lines only, each once, also over a change of the source and into the next attempt."""

    def stamp(second: int) -> str:
        return f"2026-01-31T12:00:{second:02}.000Z INFO    driver progress"

    async with world.serve() as plane:
        job_id = await plane.submit()
        position = ""

        async def read() -> str:
            nonlocal position
            answer = await plane.client.get(f"/jobs/{job_id}/logs", params={"after": position})
            assert answer.status_code == 200
            position = answer.headers["log-position"]
            return str(answer.text)

        assert await read() == ""
        await plane.look()
        while position[0] == "0":
            assert await read() == ""
        ledger = Ledger(world.state, job_id)
        world.engine.log = f"Ray says hello\n{stamp(1)}\n{stamp(2)}"
        assert await read() == f"Ray says hello\n{stamp(1)}\n"
        assert await read() == ""
        world.engine.away = unreachable()
        ledger.write_log(1, f"{stamp(1)}\n{stamp(2)}\n{stamp(3)}\n")
        assert await read() == f"{stamp(2)}\n{stamp(3)}\n"
        bad = await plane.client.get(f"/jobs/{job_id}/logs", params={"after": "somewhere"})
        assert (bad.status_code, bad.json()["field"]) == (422, "after")
