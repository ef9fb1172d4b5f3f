"""The client of Ray's Jobs API: over a strict imitation of its error shapes, and over a real Ray.

The real one is the embedded stack's, or what INGEST_RAY__ADDRESS and INGEST_RAY__AUTH_TOKEN name.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.domain.states import EngineState
from ingestion_engine.runtime.settings import RaySettings, Settings, load_settings
from ingestion_engine.services.ray_service import RayService, build_entrypoint
from ingestion_engine.submission.ray.jobs import RayJobsClient, RayJobStatus
from ingestion_engine.submission.ray.package_zip import build_package_zip

TOKEN = "token-of-the-imitation"
TRACEBACK = 'Traceback (most recent call last):\n  File "/ray/job_manager.py", line 1\n'
KNOWN = {"entrypoint", "submission_id", "runtime_env", "metadata"}


class Imitation(httpx.AsyncBaseTransport):
    """A head as Ray 2.60.0 was seen to answer.

    ``before`` may answer or raise in its place; answers to the method ``lose_answer_of`` are lost.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.packages: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.before: Callable[[httpx.Request], httpx.Response | None] = lambda _request: None
        self.lose_answer_of = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(f"{request.method} {request.url.path}")
        early = self.before(request)
        if early is not None:
            return early
        sent = request.headers.get("authorization")
        if sent is None:
            return httpx.Response(401, text="Unauthorized: Missing authentication token")
        if sent != f"Bearer {TOKEN}":
            return httpx.Response(403, text="Forbidden: Invalid authentication token")
        answer = self.answer(request)
        if self.lose_answer_of == request.method:
            raise httpx.ReadTimeout("lost", request=request)
        return answer

    def answer(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path
        if (method, path) == ("GET", "/api/version"):
            return httpx.Response(200, json={"version": "4", "ray_version": "2.60.0"})
        if (method, path) == ("POST", "/api/jobs/"):
            return self.submit(orjson.loads(request.content))
        if path.startswith("/api/packages/gcs/"):
            name = path.rpartition("/")[2]
            if method == "PUT":
                self.packages[name] = request.content
                return httpx.Response(200)
            return httpx.Response(200) if name in self.packages else missing(f"Package gcs://{name}")
        parts = path.removeprefix("/api/jobs/").split("/")
        job = self.jobs.get(parts[0])
        if not path.startswith("/api/jobs/") or len(parts) > 2:
            return httpx.Response(404, text="404: Not Found")
        if job is None:
            return missing(f"Job {parts[0]}")
        if parts[1:] == ["stop"] and method == "POST":
            stopped = job["status"] in {"PENDING", "RUNNING"}
            return httpx.Response(200, json={"stopped": stopped})
        if parts[1:] == ["logs"]:
            return httpx.Response(200, json={"logs": job["logs"]})
        shown = {name: value for name, value in job.items() if name != "logs"}
        return httpx.Response(200, json={"submission_id": parts[0], **shown})

    def submit(self, body: dict[str, Any]) -> httpx.Response:
        if set(body) - KNOWN:
            return httpx.Response(400, text=f"{TRACEBACK}TypeError: unexpected keyword argument")
        submission_id = body["submission_id"]
        if submission_id in self.jobs:
            text = f"{TRACEBACK}ValueError: Job with submission_id {submission_id} already exists."
            return httpx.Response(500, text=text)
        if not all(isinstance(value, str) for value in body["metadata"].values()):
            return httpx.Response(400, text=f"{TRACEBACK}TypeError: metadata values must be strings\n.")
        job = {**body, "status": "PENDING", "error_type": None, "driver_exit_code": None, "logs": ""}
        self.jobs[submission_id] = job
        return httpx.Response(200, json={"job_id": submission_id, "submission_id": submission_id})


def missing(what: str) -> httpx.Response:
    return httpx.Response(404, text=f"{what} does not exist")


@pytest.fixture
def head() -> Imitation:
    return Imitation()


@pytest.fixture
async def client(head: Imitation) -> AsyncIterator[RayJobsClient]:
    client = RayJobsClient("http://head:8265/", TOKEN, transport=head)
    yield client
    await client.close()


async def submit(client: RayJobsClient, submission_id: str = "job-a-01") -> None:
    await client.submit(submission_id, "true", runtime_env={}, metadata={"job_id": "job-a"})


async def test_a_repeated_submission_is_recognised(head: Imitation, client: RayJobsClient) -> None:
    """The 500 for a duplicate is looked up, and is a success."""
    await submit(client)
    await submit(client)
    assert list(head.jobs) == ["job-a-01"]
    assert head.requests == ["POST /api/jobs/", "POST /api/jobs/", "GET /api/jobs/job-a-01"]


async def test_a_lost_answer_is_looked_up(head: Imitation, client: RayJobsClient) -> None:
    """A submission that arrived counts, though its answer was lost."""
    head.lose_answer_of = "POST"
    await submit(client)
    assert list(head.jobs) == ["job-a-01"]


async def test_a_500_for_another_reason_is_transient(head: Imitation, client: RayJobsClient) -> None:
    """The job is not there, so it may be submitted again; the traceback stays where it is."""

    def busy(request: httpx.Request) -> httpx.Response | None:
        text = f"{TRACEBACK}No available agent to submit job, please try again later."
        return httpx.Response(500, text=text) if request.method == "POST" else None

    head.before = busy
    with pytest.raises(TransientError) as caught:
        await submit(client)
    assert caught.value.code == "engine_error"
    assert "Traceback" not in str(caught.value.record())
    assert not caught.value.context.get("maybe_started")


@pytest.mark.parametrize(
    ("error", "maybe_started"),
    [(httpx.ConnectError("refused"), False), (httpx.ConnectTimeout("slow"), False), (httpx.ReadError("cut"), True)],
)
async def test_it_is_known_whether_a_lost_submission_may_have_started(
    head: Imitation, client: RayJobsClient, error: httpx.TransportError, maybe_started: bool
) -> None:
    """Only a request that was sent can have been carried out."""

    def fail(_request: httpx.Request) -> httpx.Response | None:
        raise error

    head.before = fail
    with pytest.raises(TransientError) as caught:
        await submit(client)
    assert caught.value.context["maybe_started"] is maybe_started


async def test_a_bad_request_is_refused_for_good(head: Imitation, client: RayJobsClient) -> None:
    """The exception's own line is told, the traceback is not."""
    with pytest.raises(SubmissionError) as caught:
        await client.submit("job-a-01", "true", runtime_env={}, metadata={"n": 1})  # type: ignore[dict-item]
    assert caught.value.code == "engine_refused"
    assert caught.value.message == "Ray rejected the submission: TypeError: metadata values must be strings"


@pytest.mark.parametrize(("token", "said"), [(None, "requires a token"), ("wrong", "rejected the token")])
async def test_access_denied_says_what_to_set(head: Imitation, token: str | None, said: str) -> None:
    """Jobs wait for an operator instead of failing."""
    client = RayJobsClient("http://head:8265", token, transport=head)
    with pytest.raises(TransientError, match=said) as caught:
        await client.get_version()
    assert caught.value.code == "engine_access_denied"
    assert "INGEST_RAY__AUTH_TOKEN" in caught.value.hint
    await client.close()


FOREIGN = {
    "404 of another server": httpx.Response(404, text="<html>nginx</html>"),
    "404 of a default backend": httpx.Response(404, text="default backend - 404"),
    "404 in words like Ray's": httpx.Response(404, text="<p>The page you requested does not exist.</p>"),
    "400 of another server": httpx.Response(400, text="Client sent an HTTP request to an HTTPS server.\n"),
    "422 of another server": httpx.Response(422, json={"detail": "Field required"}),
    "405 of another server": httpx.Response(405, text="<html>Not Allowed</html>"),
    "redirect to a login page": httpx.Response(302, headers={"Location": "http://head:8265/login"}),
    "page": httpx.Response(200, text="<html>hello</html>"),
    "list": httpx.Response(200, json=["hello"]),
    "other JSON": httpx.Response(200, json={"status": "ok"}),
}
CALLS: dict[str, Callable[[RayJobsClient], Awaitable[object]]] = {
    "submit": submit,
    "get_job": lambda client: client.get_job("job-a-01"),
    "stop": lambda client: client.stop("job-a-01"),
    "get_logs": lambda client: client.get_logs("job-a-01"),
    "get_version": lambda client: client.get_version(),
    "has_package": lambda client: client.has_package("_ray_pkg_0.zip"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", FOREIGN)
async def test_an_answer_of_another_server_decides_nothing(
    head: Imitation, client: RayJobsClient, call: str, answer: str
) -> None:
    """No attempt is thought started, lost or refused because the address is wrong."""
    head.before = lambda _request: FOREIGN[answer]
    with pytest.raises(TransientError, match="does not point to a Ray dashboard") as caught:
        await CALLS[call](client)
    assert caught.value.code == "engine_unexpected_answer"
    assert await _unknown(client, head)


async def test_a_proxy_that_denies_access_is_not_called_ray(head: Imitation, client: RayJobsClient) -> None:
    """Ray's own words are known."""
    head.before = lambda _request: httpx.Response(403, text="<html>Forbidden</html>")
    with pytest.raises(TransientError, match="A proxy in front of Ray") as caught:
        await client.get_version()
    assert caught.value.code == "engine_access_denied"


async def _unknown(client: RayJobsClient, head: Imitation) -> bool:
    head.before = lambda _request: None
    return await client.get_job("job-a-01") is None and not await client.stop("job-a-01")


async def test_logs_are_bounded(head: Imitation, client: RayJobsClient) -> None:
    """Their end is kept; an empty log is none."""
    await submit(client)
    assert await client.get_logs("job-a-01") is None
    head.jobs["job-a-01"]["logs"] = "x" * 3_000_000 + "end"
    text = await client.get_logs("job-a-01")
    assert text is not None
    assert len(text) == 1024 * 1024
    assert text.endswith("end")
    assert await client.get_logs("nope") is None


@pytest.mark.parametrize(
    ("status", "error_type", "state", "detail"),
    [
        ("PENDING", None, EngineState.PENDING, "PENDING"),
        ("RUNNING", None, EngineState.RUNNING, "RUNNING"),
        ("STOPPED", None, EngineState.ENDED, "was stopped"),
        ("SUCCEEDED", None, EngineState.ENDED, "ended"),
        ("FAILED", "JOB_SUPERVISOR_ACTOR_DIED", EngineState.ENDED, "died"),
        ("FAILED", "SOMETHING_NEW", EngineState.ENDED, "ended"),
    ],
)
async def test_rays_words_become_ours(
    head: Imitation, status: str, error_type: str | None, state: EngineState, detail: str
) -> None:
    """Whether a job succeeded is not Ray's to say: an ended driver is an ended driver."""
    service = RayService(Settings(), RayJobsClient("http://head:8265", TOKEN, transport=head))
    assert (await service.status("job-a", 1)).state is EngineState.ABSENT
    head.jobs["job-a-01"] = {"status": status, "error_type": error_type, "driver_exit_code": 1, "logs": ""}
    found = await service.status("job-a", 1)
    assert found.state is state
    assert detail in found.detail
    await service.close()


async def test_why_no_driver_ran_is_shown(head: Imitation) -> None:
    """Ray's message ends with the reason; its traceback, and a login in the URL of an index, are left out."""
    service = RayService(Settings(), RayJobsClient("http://head:8265", TOKEN, transport=head))
    message = (
        f"runtime_env setup failed: Failed to set up runtime environment.\n{TRACEBACK}ray.CalledProcessError: Run cmd\n"
        "    ERROR: No matching distribution found for nope (from https://me:planted@index/simple)"
    )
    failed = {"status": "FAILED", "error_type": "RUNTIME_ENV_SETUP_FAILURE", "driver_exit_code": None}
    head.jobs["job-a-01"] = {**failed, "message": message, "logs": ""}
    found = await service.status("job-a", 1)
    assert (found.state, found.can_start) == (EngineState.ENDED, False)
    assert found.detail == (
        "Ray could not set up the runtime environment: "
        "ERROR: No matching distribution found for nope (from https://index/simple)."
    )
    assert "INGEST_RAY__*" in found.hint
    waiting = "Job has not started yet. It may be waiting for the runtime environment to be set up."
    head.jobs["job-a-01"] = {"status": "PENDING", "message": waiting, "logs": ""}
    assert (await service.status("job-a", 1)).detail == f"Ray reports PENDING: {waiting}"
    head.jobs["job-a-01"] = {**failed, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "message": "log", "logs": ""}
    found = await service.status("job-a", 1)
    assert (found.detail, found.can_start) == ("The command of the driver failed.", True)
    await service.close()


async def test_a_submission_carries_no_secret_and_a_quoted_command(head: Imitation) -> None:
    """Endpoint and region of S3 stand behind the spec's URI; a runtime environment would delay every worker."""
    s3 = {"endpoint_url": "http://s3:9000", "access_key_id": "the-id", "secret_access_key": "the-secret"}
    settings = Settings(s3=s3, ray={"python": "python 3"}, qdrant={"url": "http://q", "api_key": "the-key"})
    service = RayService(settings, RayJobsClient("http://head:8265", TOKEN, transport=head))
    await service.submit("job-a", 2, "s3://b/state; rm -rf/jobs/job-a/spec.json", 4)
    job = head.jobs["job-a-02"]
    assert job["runtime_env"] == {}
    assert job["entrypoint"] == (
        "'python 3' -m ingestion_engine.driver.entry --engine ray --spec 's3://b/state; rm -rf/jobs/job-a/spec.json"
        "?endpoint_url=http%3A%2F%2Fs3%3A9000&region=us-east-1' --attempt 2"
    )
    assert job["metadata"] == {"job_id": "job-a", "attempt": "2", "parallelism": "4"}
    assert not any(word in str(job) for word in ("the-id", "the-secret", "the-key", TOKEN))
    await service.close()


async def test_the_package_is_uploaded_once(head: Imitation) -> None:
    """By the hash of its content; its paths start with the package's name, as Ray's unpacking wants it."""
    settings = Settings(ray={"ship_package": True, "pip": "httpx,orjson"})
    service = RayService(settings, RayJobsClient("http://head:8265", TOKEN, transport=head))
    await service.submit("job-a", 1, "s3://b/jobs/job-a/spec.json", 1)
    await service.submit("job-b", 1, "s3://b/jobs/job-b/spec.json", 1)
    assert [request for request in head.requests if request.startswith("PUT")] == [
        f"PUT /api/packages/gcs/{build_package_zip().name}"
    ]
    runtime_env = head.jobs["job-b-01"]["runtime_env"]
    assert runtime_env["py_modules"] == [build_package_zip().uri]
    assert runtime_env["pip"] == ["httpx", "orjson"]
    (data,) = head.packages.values()
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert "ingestion_engine/driver/entry.py" in names
    assert all(name.startswith("ingestion_engine/") for name in names)
    await service.close()


def test_the_same_source_makes_the_same_package(tmp_path: Path) -> None:
    """Dates, caches and the order of files do not matter; content does."""
    zips = []
    for number, text in enumerate(["a = 1\n", "a = 1\n", "a = 2\n"]):
        root = tmp_path / str(number) / "package"
        (root / "__pycache__").mkdir(parents=True)
        (root / "__pycache__" / "x.py").write_text(str(number))
        (root / "a.py").write_text(text)
        zips.append(build_package_zip(root))
    assert zips[0] == zips[1]
    assert zips[0].name != zips[2].name


@pytest.fixture
def ray_settings(request: pytest.FixtureRequest) -> RaySettings:
    """A real cluster: the one that the environment names, which must require a token, else the embedded one."""
    settings = load_settings()
    if settings.ray.address is None:
        settings = request.getfixturevalue("platform").settings
    assert settings.ray.auth_token is not None, "set INGEST_RAY__AUTH_TOKEN"
    return settings.ray


@pytest.fixture
async def real_ray(ray_settings: RaySettings) -> AsyncIterator[RayJobsClient]:
    client = RayJobsClient(str(ray_settings.address), ray_settings.auth_token.get_secret_value())
    yield client
    await client.close()


async def _end(client: RayJobsClient, submission_id: str) -> RayJobStatus:
    return await _wait(client, submission_id, lambda status: status.is_terminal)


async def _wait(client: RayJobsClient, submission_id: str, fact: Callable[[RayJobStatus], bool]) -> RayJobStatus:
    async with asyncio.timeout(120):
        while True:
            job = await client.get_job(submission_id)
            assert job is not None
            if fact(job.status):
                return job.status
            await asyncio.sleep(0.1)  # between two requests


async def test_a_real_cluster_knows_a_submission_at_once_and_runs_it_once(real_ray: RayJobsClient) -> None:
    """Submitted twice, run once; its output is its log."""
    submission_id = f"job-{secrets.token_hex(8)}-01"
    assert await real_ray.get_job(submission_id) is None
    # Ray writes its own first line, which repeats the command, at the same moment: so a pause, and a word put together.
    command = 'sleep 1; echo on"ce"'
    for _ in range(2):
        await real_ray.submit(submission_id, command, runtime_env={"env_vars": {"A": "b"}}, metadata={"job_id": "x"})
        assert await real_ray.get_job(submission_id) is not None
    assert await _end(real_ray, submission_id) is RayJobStatus.SUCCEEDED
    log = await real_ray.get_logs(submission_id)
    assert log is not None
    assert log.splitlines().count("once") == 1
    assert not await real_ray.stop(submission_id)


async def test_a_real_cluster_stops_a_driver(real_ray: RayJobsClient) -> None:
    """Asynchronously; asking again does no harm."""
    submission_id = f"job-{secrets.token_hex(8)}-01"
    await real_ray.submit(submission_id, "sleep 600", runtime_env={}, metadata={})
    await _wait(real_ray, submission_id, lambda status: status is RayJobStatus.RUNNING)
    assert await real_ray.stop(submission_id)
    assert await _end(real_ray, submission_id) is RayJobStatus.STOPPED


async def test_a_real_cluster_imports_the_shipped_package(real_ray: RayJobsClient) -> None:
    """From Ray's own unpacked copy, not from where the interpreter has it installed."""
    package = build_package_zip()
    if not await real_ray.has_package(package.name):
        await real_ray.put_package(package.name, package.data)
    assert await real_ray.has_package(package.name)
    submission_id = f"job-{secrets.token_hex(8)}-01"
    command = "python -c 'import ingestion_engine; print(ingestion_engine.__file__)'"
    await real_ray.submit(submission_id, command, runtime_env={"py_modules": [package.uri]}, metadata={})
    assert await _end(real_ray, submission_id) is RayJobStatus.SUCCEEDED
    assert package.name.removesuffix(".zip") in (await real_ray.get_logs(submission_id) or "")


async def test_a_real_cluster_fails_a_command_that_is_none(real_ray: RayJobsClient) -> None:
    """The entry's command line is understood by the shell; without a state store the driver ends at once."""
    submission_id = f"job-{secrets.token_hex(8)}-01"
    entrypoint = build_entrypoint("/does/not/exist", "s3://b/jobs/job-a/spec.json", 1)
    await real_ray.submit(submission_id, entrypoint, runtime_env={}, metadata={})
    assert await _end(real_ray, submission_id) is RayJobStatus.FAILED


async def test_a_real_cluster_has_a_version_and_guards_it(ray_settings: RaySettings, real_ray: RayJobsClient) -> None:
    """It is returned with the right token, and refused with a wrong one or with none."""
    assert (await real_ray.get_version()).split(".")[0].isdigit()
    for token in ("wrong", None):
        stranger = RayJobsClient(str(ray_settings.address), token)
        with pytest.raises(TransientError) as caught:
            await stranger.get_version()
        assert caught.value.code == "engine_access_denied"
        await stranger.close()
