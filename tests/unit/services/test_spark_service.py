"""Spark as an engine of the service, over the official client and a small Kubernetes API in this process."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from urllib3.exceptions import HTTPError, ResponseError

from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.domain.spec import EngineName, JobRequest
from ingestion_engine.domain.states import EngineState
from ingestion_engine.runtime.settings import Settings, SparkSettings
from ingestion_engine.services.spark_service import EXAMPLE_JOB_ID, SparkService
from ingestion_engine.services.specs import make_spec
from ingestion_engine.submission.kubernetes import api as kubernetes_api
from ingestion_engine.submission.kubernetes.api import LOG_TAIL_BYTES, KubernetesApi
from ingestion_engine.submission.kubernetes.responses import kubernetes_errors
from support.answering import running

JOB = "job-01jd0000000000000000000000"
NAME = f"{JOB}-01"
URI = f"s3://state/jobs/{JOB}/spec.json"
ITEMS = "/apis/sparkoperator.k8s.io/v1beta2/namespaces/spark/sparkapplications"
NOW = dt.datetime(2026, 1, 1, 12, 0, 0, tzinfo=dt.UTC)
TOKEN = "planted-token"

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


def status_of(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }


@dataclass
class Cluster:
    """A small Kubernetes API: it keeps SparkApplications and pod logs, and can be told to fail."""

    url: str = ""
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Status of each pod."""
    events: list[dict[str, Any]] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    """Resources (``pods``, ``events``) that the account may not read."""
    requests: list[tuple[str, str, dict[str, list[str]]]] = field(default_factory=list)
    fault: Callable[[str], Reply | None] = lambda _: None
    after: Callable[[str], None] = lambda _: None
    """Called when the request is carried out and before it is answered."""

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any, token: str | None) -> Reply:
        self.requests.append((method, path, query))
        if token != f"Bearer {TOKEN}":
            return 401, status_of(401, "Unauthorized", "Unauthorized")
        found = self.fault(method) or self._handle(method, path, body)
        self.after(method)
        return found

    def _handle(self, method: str, path: str, body: Any) -> Reply:
        if path == "/version/":
            version = dict.fromkeys(
                ("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "platform"), "x"
            )
            return 200, {**version, "major": "1", "minor": "31", "gitVersion": "v1.31.2"}
        parts = path.split("/")
        for resource in self.forbidden & {parts[-1], parts[-2]}:
            message = f'{resource} is forbidden: User "a" cannot get resource "{resource}" in API group ""'
            return 403, status_of(403, "Forbidden", message)
        if parts[-1] == "events":
            return 200, {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": self.events}
        if parts[-2] == "pods" and parts[-1] in self.pods:
            metadata = {"name": parts[-1], "uid": "u", "creationTimestamp": "2026-01-01T11:59:40Z"}
            return 200, {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "status": self.pods[parts[-1]]}
        if path.endswith("/log"):
            pod = path.split("/")[-2]
            missing = status_of(404, "NotFound", f'pods "{pod}" not found', name=pod, kind="pods")
            return (200, self.logs[pod]) if pod in self.logs else (404, missing)
        if method == "POST" and path == ITEMS:
            name = body["metadata"]["name"]
            if name in self.items:
                return 409, status_of(409, "AlreadyExists", f'"{name}" already exists', name=name)
            stamped = {**body["metadata"], "uid": "u", "creationTimestamp": "2026-01-01T11:59:30Z"}
            self.items[name] = {**body, "metadata": stamped}
            return 201, self.items[name]
        name = path.rsplit("/", 1)[-1]
        if name not in self.items:
            message = f'sparkapplications.sparkoperator.k8s.io "{name}" not found'
            return 404, status_of(404, "NotFound", message, name=name, kind="sparkapplications")
        if method == "DELETE":
            self.items[name]["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
        return 200, self.items[name]

    def set_state(self, state: str, message: str = "", name: str = NAME, *, executions: int = 1) -> None:
        shown = {"state": state, "errorMessage": message}
        self.items[name]["status"] = {"applicationState": shown, "executionAttempts": executions}


class Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def reply(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        found = self.cluster.answer(
            self.command, parts.path, parse_qs(parts.query), body, self.headers.get("Authorization")
        )
        data = found[1] if isinstance(found[1], bytes) else json.dumps(found[1]).encode()
        self.send_response(found[0])
        self.send_header("Content-Type", "text/plain" if isinstance(found[1], bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for key, value in (found[2] if len(found) == 3 else {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = reply  # noqa: N815 - the names that http.server calls

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    with running(type("Bound", (Handler,), {"cluster": made})) as made.url:
        yield made


def write_kubeconfig(path: Path, url: str, token: str = TOKEN) -> Path:
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return path


def make_service(kubeconfig: Path, **spark: Any) -> SparkService:
    values = {"namespace": "spark", "image": "registry.example/ingest:0.1", "kubeconfig": kubeconfig, **spark}
    settings = Settings(spark=SparkSettings(**values), state_url="s3://state")
    api = KubernetesApi("spark", kubeconfig=kubeconfig, context=settings.spark.context)
    return SparkService(settings, api, now=lambda: NOW)


@pytest.fixture
async def service(cluster: Cluster, tmp_path: Path) -> AsyncIterator[SparkService]:
    made = make_service(write_kubeconfig(tmp_path / "kubeconfig", cluster.url))
    yield made
    await made.close()


async def submit(service: SparkService) -> None:
    await service.submit(JOB, 1, URI, 4)


class TestSubmit:
    """Creating an attempt's application."""

    async def test_the_manifest_is_created_as_it_is(self, cluster: Cluster, service: SparkService) -> None:
        """What ``manifest`` shows is what Kubernetes gets, strictly validated."""
        request = JobRequest.model_validate({"source": {"bucket": "docs"}, "collection": "c"})
        spec = make_spec(Settings(state_url="s3://state"), request, EngineName.SPARK, JOB, parallelism=4)
        await submit(service)
        held = cluster.items[NAME]
        shown = service.manifest(spec, 1)
        assert held["spec"] == shown["spec"]
        assert held["metadata"]["labels"] == shown["metadata"]["labels"]
        assert service.reference(JOB, 1) == NAME
        assert cluster.requests[0][2]["fieldValidation"] == ["Strict"]

    async def test_a_repeated_submit_is_recognised(self, cluster: Cluster, service: SparkService) -> None:
        """409 is the same submit seen twice."""
        await submit(service)
        await submit(service)
        assert list(cluster.items) == [NAME]

    @pytest.mark.parametrize("change", ["label", "arguments"])
    async def test_a_name_taken_by_another_is_refused(
        self, cluster: Cluster, service: SparkService, change: str
    ) -> None:
        """An application of that name that is not ours is never taken for ours."""
        await submit(service)
        if change == "label":
            cluster.items[NAME]["metadata"]["labels"]["ingestion-engine/job-id"] = "job-other"
        else:
            cluster.items[NAME]["spec"]["arguments"][1] = "s3://elsewhere/jobs/x/spec.json"
        with pytest.raises(SubmissionError) as raised:
            await submit(service)
        assert raised.value.code == "engine_refused"

    async def test_a_lost_answer_is_looked_up(self, cluster: Cluster, service: SparkService) -> None:
        """Created, then the answer fails: the submit has happened, and is not reported as failed."""
        cluster.fault = lambda method: (
            (cluster._handle("POST", ITEMS, service_manifest(service)), (500, "gone"))[1] if method == "POST" else None
        )
        await submit(service)
        assert NAME in cluster.items

    async def test_an_uncertain_submit_says_so(self, cluster: Cluster, service: SparkService) -> None:
        """When the look-up fails too, the dispatcher is told that the attempt may have started."""
        cluster.fault = lambda _: (500, status_of(500, "InternalError", "etcd is unavailable"))
        with pytest.raises(TransientError) as raised:
            await submit(service)
        assert raised.value.context["maybe_started"] is True

    @pytest.mark.parametrize(
        ("status", "reason", "message"),
        [
            (403, "Forbidden", 'admission webhook "validate-x" denied the request: sparkConf key is not allowed'),
            (422, "Invalid", "spec.driver.cores: Invalid value: 0"),
            (400, "BadRequest", 'strict decoding error: unknown field "spec.colour"'),
            (400, "", 'admission webhook "mutate-x" denied the request: json: cannot unmarshal string'),
            (403, "Forbidden", "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no image"),
        ],
    )
    async def test_a_refused_manifest_is_refused_for_good(
        self, cluster: Cluster, service: SparkService, status: int, reason: str, message: str
    ) -> None:
        """Schema and webhook do not change their minds; their own words are shown."""
        answer = status_of(status, reason, message)
        cluster.fault = lambda _: (status, answer if reason else {k: v for k, v in answer.items() if k != "reason"})
        with pytest.raises(SubmissionError) as raised:
            await submit(service)
        assert raised.value.code == "engine_refused"
        assert message in raised.value.message

    async def test_a_refusal_without_a_message_is_no_empty_sentence(
        self, cluster: Cluster, service: SparkService
    ) -> None:
        """The HTTP status stands in for the reason."""
        cluster.fault = lambda _: (422, status_of(422, "Invalid", ""))
        with pytest.raises(SubmissionError, match="HTTP 422 without a message"):
            await submit(service)


def test_a_manifest_that_is_shown_has_what_a_job_is_granted() -> None:
    """All that it asks for with a gateway, at most the limit on embedding without one."""
    request = JobRequest.model_validate({"source": {"bucket": "docs"}, "collection": "c", "parallelism": 100})
    spark = {"namespace": "jobs", "image": "image:1"}
    plain = Settings(state_url="s3://state", spark=spark, embed={"in_flight": 8})
    gateway = Settings(state_url="s3://state", spark=spark, embed={"in_flight": 8}, gateway={"url": "http://g:1"})
    for settings, executors in ((plain, 4), (gateway, 50)):
        shown = SparkService(settings, KubernetesApi("jobs")).show_manifest(request)
        assert shown["spec"]["executor"]["instances"] == executors


def service_manifest(service: SparkService) -> dict[str, Any]:
    request = JobRequest.model_validate({"source": {"bucket": "docs"}, "collection": "c"})
    return service.manifest(
        make_spec(Settings(state_url="s3://state"), request, EngineName.SPARK, JOB, parallelism=4), 1
    )


AWAY = {
    "missing permission": (403, status_of(403, "Forbidden", "sparkapplications is forbidden"), "engine_access_denied"),
    "quota": (403, status_of(403, "Forbidden", "exceeded quota: jobs, requested: 1"), "engine_quota_exceeded"),
    "quota of the operator": (
        403,
        status_of(
            403, "Forbidden", 'admission webhook "v" denied the request: failed to validate resource quota "s/q"'
        ),
        "engine_quota_exceeded",
    ),
    "namespace being deleted": (
        403,
        status_of(403, "Forbidden", "unable to create new content in namespace x because it is being terminated"),
        "engine_namespace_terminating",
    ),
    "busy": (429, status_of(429, "TooManyRequests", "slow down"), "engine_busy"),
    "failure": (500, status_of(500, "InternalError", "etcd"), "engine_error"),
    "gateway": (502, b"<html>bad gateway</html>", "engine_error"),
    "webhook": (500, status_of(500, "InternalError", 'failed calling webhook "validate-x": refused'), "engine_error"),
    "no operator": (404, b"404 page not found\n", "engine_unexpected_answer"),
    "no namespace": (
        404,
        status_of(404, "NotFound", 'namespaces "spark" not found', name="spark", kind="namespaces"),
        "engine_unexpected_answer",
    ),
    "another server": (200, b"<html>welcome</html>", "engine_unexpected_answer"),
    "another server's JSON": (200, {"status": "ok", "metadata": {}}, "engine_unexpected_answer"),
    "another server's 400": (400, b"<html>Bad Request</html>", "engine_unexpected_answer"),
    "another server's 403": (403, b"<html>Forbidden</html>", "engine_unexpected_answer"),
    "another server's 404": (404, b"default backend - 404", "engine_unexpected_answer"),
    "another server's 422": (422, {"detail": [{"msg": "Field required"}]}, "engine_unexpected_answer"),
    "HTTP instead of HTTPS": (
        400,
        b"Client sent an HTTP request to an HTTPS server.\n",
        "engine_unexpected_answer",
    ),
}


class TestAway:
    """A cluster that is unavailable or refuses us: the job waits, with the reason in a short sentence."""

    @pytest.mark.parametrize("call", ["submit", "status", "stop", "logs"])
    @pytest.mark.parametrize("name", AWAY)
    async def test_every_failure_is_transient(
        self, cluster: Cluster, service: SparkService, name: str, call: str
    ) -> None:
        """Nothing ends a job because its cluster is unavailable; no page of HTML or JSON is relayed."""
        status, body, code = AWAY[name]
        cluster.fault = lambda _: (status, body, {"Retry-After": "7"})
        calls = {
            "submit": lambda: submit(service),
            "status": lambda: service.status(JOB, 1),
            "stop": lambda: service.stop(JOB, 1),
            "logs": lambda: service.logs(JOB, 1),
        }
        with pytest.raises(TransientError) as raised:
            await calls[call]()
        assert raised.value.code == code
        assert len(raised.value.message) < 200
        assert "<" not in raised.value.message
        if status == 429:
            assert raised.value.context["retry_after_s"] == 7

    @pytest.mark.parametrize(
        ("status", "message", "hint"),
        [
            (403, 'User "a" cannot create resource "sparkapplications" in API group', "Role"),
            (403, 'User "system:anonymous" cannot get resource', "no credentials"),
            (403, "exceeded quota: q, requested: count/sparkapplications=1", "ResourceQuota"),
            (403, "unable to create new content in namespace x because it is being terminated", "when it is gone"),
            (403, 'violates PodSecurity "restricted:latest"', "policies"),
            (404, 'namespaces "spark" not found', "INGEST_SPARK__NAMESPACE"),
            (500, 'failed calling webhook "policy.example": dial tcp: refused', "program that the webhook belongs to"),
            (400, "Client sent an HTTP request to an HTTPS server.", "https://"),
            (400, "<html>nginx</html>", "INGEST_SPARK__KUBECONFIG"),
        ],
    )
    async def test_the_hint_suits_the_cause(
        self, cluster: Cluster, service: SparkService, status: int, message: str, hint: str
    ) -> None:
        """One status has many causes, and each requires something else."""
        foreign = message.startswith(("Client", "<"))
        answer = message.encode() if foreign else status_of(status, "R", message, name="spark", kind="namespaces")
        cluster.fault = lambda _: (status, answer)
        with pytest.raises(TransientError) as raised:
            await submit(service)
        assert hint in raised.value.hint
        assert raised.value.message.endswith(".")
        assert not raised.value.message.rstrip(".").endswith(":")

    @pytest.mark.parametrize("reply", [(200, b"<html>hello</html>"), (200, {"version": "3"}), (200, [])])
    async def test_another_servers_version_is_none(self, cluster: Cluster, service: SparkService, reply: Reply) -> None:
        """The check of a dependency fails as an outage, not as an unexpected error."""
        cluster.fault = lambda _: reply
        with pytest.raises(TransientError) as raised:
            await service.check()
        assert raised.value.code == "engine_unexpected_answer"

    @pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"kind": "Spark', b"\xff\xfe"])
    async def test_an_answer_that_is_no_json_is_an_outage(
        self, cluster: Cluster, service: SparkService, body: bytes
    ) -> None:
        """A page in any encoding, or an answer cut short; no unexpected error, in which nobody could read the cause."""
        cluster.fault = lambda _: (200, body, {"Content-Type": "application/json"})
        for call in (submit(service), service.status(JOB, 1), service.stop(JOB, 1), service.check()):
            with pytest.raises(TransientError) as raised:
                await call
            assert raised.value.code == "engine_unexpected_answer", (raised.value, call)

    async def test_a_redirect_is_not_followed(self, cluster: Cluster, service: SparkService) -> None:
        """A login page behind a redirect is no API server, and gets no token."""
        cluster.fault = lambda _: (302, b"", {"Location": f"{cluster.url}/login"})
        with pytest.raises(TransientError) as raised:
            await service.status(JOB, 1)
        assert raised.value.code == "engine_unexpected_answer"
        assert [path for _, path, _ in cluster.requests if path == "/login"] == []

    async def test_another_servers_400_is_no_empty_log(self, cluster: Cluster, service: SparkService) -> None:
        """Only Kubernetes itself says that a container has not started."""
        await submit(service)
        replies = iter([None, (400, b"<html>Bad Request</html>")])
        cluster.fault = lambda _: next(replies)
        with pytest.raises(TransientError) as raised:
            await service.logs(JOB, 1)
        assert raised.value.code == "engine_unexpected_answer"

    async def test_a_wrong_token_names_the_kubeconfig(self, cluster: Cluster, tmp_path: Path) -> None:
        """401 says what to check, and a kubeconfig mended meanwhile is read without a restart."""
        path = write_kubeconfig(tmp_path / "kubeconfig", cluster.url, token="wrong")
        service = make_service(path)
        with pytest.raises(TransientError) as raised:
            await service.check()
        assert raised.value.code == "engine_access_denied"
        assert "kubeconfig" in raised.value.hint
        write_kubeconfig(path, cluster.url)
        assert await service.check() == "v1.31.2"
        await service.close()

    async def test_a_refused_connection_is_known_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No hidden retries; nothing can have been started."""
        connect, connections = socket.socket.connect, []

        def count(self: socket.socket, address: object) -> None:
            connections.append(address)
            connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", count)
        service = make_service(write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9"))
        with pytest.raises(TransientError) as raised:
            await submit(service)
        assert connections == [("127.0.0.1", 9)]
        assert raised.value.code == "engine_unreachable"
        assert raised.value.context["maybe_started"] is False
        await service.close()

    async def test_a_slow_cluster_holds_up_nobody(
        self, cluster: Cluster, service: SparkService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Many looks at a silent cluster all end in time, and the threads that others use stay free."""
        released = threading.Event()
        monkeypatch.setattr(kubernetes_api, "READ_TIMEOUT_S", 1.5)
        monkeypatch.setattr(kubernetes_api, "TOTAL_TIMEOUT_S", 2.0)
        cluster.after = lambda _: released.wait(20) and None
        looks = [asyncio.create_task(service.status(JOB, attempt)) for attempt in range(1, 21)]
        await asyncio.sleep(0)
        assert await asyncio.to_thread(lambda: "free") == "free"
        assert not any(look.done() for look in looks)
        answers = await asyncio.gather(*looks, return_exceptions=True)  # the cluster is still silent
        released.set()
        assert {type(answer) for answer in answers} == {TransientError}
        assert {answer.message for answer in answers if isinstance(answer, TransientError)} == {
            "Kubernetes did not respond in time."
        }

    @pytest.mark.parametrize("content", [None, "{}", "clusters: [", "just text"])
    async def test_an_unusable_kubeconfig_is_transient(self, tmp_path: Path, content: str | None) -> None:
        """It may be mounted or mended later; the job waits and says why."""
        path = tmp_path / "kubeconfig"
        if content is not None:
            path.write_text(content)
        service = make_service(path)
        with pytest.raises(TransientError) as raised:
            await service.check()
        assert raised.value.code == "engine_not_configured"
        await service.close()


def every_subclass(root: type[BaseException]) -> Iterator[type[BaseException]]:
    for kind in root.__subclasses__():
        yield kind
        yield from every_subclass(kind)


@pytest.mark.parametrize("kind", sorted({HTTPError, *every_subclass(HTTPError)}, key=lambda kind: kind.__name__))
def test_every_error_below_the_client_has_a_reaction(kind: type[BaseException]) -> None:
    """Whatever urllib3 raises is an outage of the cluster, or a redirect by another server; said in our words."""
    error = kind.__new__(kind)
    error.args = ("planted",)
    with pytest.raises(TransientError) as raised, kubernetes_errors():
        raise error
    assert raised.value.code == ("engine_unexpected_answer" if kind is ResponseError else "engine_unreachable")
    assert "planted" not in raised.value.message


class TestStatus:
    """Looking at an attempt."""

    async def test_an_unknown_attempt_is_absent(self, service: SparkService) -> None:
        """Never arrived, or deleted after its time to live."""
        assert (await service.status(JOB, 1)).state is EngineState.ABSENT

    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            ("SUBMITTED", EngineState.PENDING),
            ("RUNNING", EngineState.RUNNING),
            ("COMPLETED", EngineState.ENDED),
            ("FAILED", EngineState.ENDED),
            ("FAILING", EngineState.RUNNING),
            ("SUBMISSION_FAILED", EngineState.PENDING),
            ("PENDING_RERUN", EngineState.PENDING),
            ("UNKNOWN", EngineState.RUNNING),
        ],
    )
    async def test_states_are_read(
        self, cluster: Cluster, service: SparkService, state: str, expected: EngineState
    ) -> None:
        """The operator's word becomes ours, with the cause of its error."""
        await submit(service)
        cluster.set_state(state, "Traceback\n  at x\njava.lang.Error: no image\n")
        found = await service.status(JOB, 1)
        assert found.state is expected
        assert found.detail.endswith("java.lang.Error: no image.")
        assert "Traceback" not in found.detail
        assert found.can_start

    async def test_a_state_of_tomorrow_decides_nothing(self, cluster: Cluster, service: SparkService) -> None:
        """An unknown word is no end."""
        await submit(service)
        cluster.set_state("HIBERNATING")
        with pytest.raises(TransientError):
            await service.status(JOB, 1)

    @pytest.mark.parametrize(("created", "ignored"), [("11:59:30", False), ("11:58:59", True)])
    async def test_an_operator_that_does_nothing_is_reported(
        self, cluster: Cluster, service: SparkService, created: str, ignored: bool
    ) -> None:
        """An empty state for longer than the deadline means that nobody watches; the attempt still waits."""
        await submit(service)
        cluster.items[NAME]["metadata"]["creationTimestamp"] = f"2026-01-01T{created}Z"
        found = await service.status(JOB, 1)
        assert found.state is EngineState.PENDING
        assert ("does not watch namespace 'spark'" in found.detail) is ignored


DRIVER = f"{NAME}-driver"


def waits(reason: str, message: str = "", name: str = "spark-kubernetes-driver") -> dict[str, Any]:
    """The status of a pod with a container that waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": name, "state": state}]}


def unscheduled(reason: str, message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def warning(reason: str, message: str, seen: str) -> dict[str, Any]:
    return {"reason": reason, "message": message, "type": "Warning", "lastTimestamp": seen}


class TestStart:
    """Why a driver does not start: from its pod's status and events, and without the permission to read them."""

    @pytest.mark.parametrize(
        ("pod", "expected", "hint"),
        [
            (waits("ContainerCreating"), "", ""),
            (
                waits("CreateContainerConfigError", 'secret "login" not found'),
                ' CreateContainerConfigError: secret "login" not found.',
                "Create what is missing",
            ),
            (
                waits("ImagePullBackOff", 'Back-off pulling image "nope:1": ErrImagePull: not found'),
                ' ImagePullBackOff: Back-off pulling image "nope:1": ErrImagePull: not found.',
                "INGEST_SPARK__IMAGE",
            ),
            (
                unscheduled("Unschedulable", "0/3 nodes are available: 3 Insufficient memory."),
                " Unschedulable: 0/3 nodes are available: 3 Insufficient memory.",
                "INGEST_SPARK__DRIVER_*",
            ),
            (unscheduled("SchedulingGated", "a queue holds it"), " SchedulingGated: a queue holds it.", ""),
            (waits("ErrImagePull", "no such image", "sidecar"), " ErrImagePull: no such image.", "INGEST_SPARK__IMAGE"),
        ],
    )
    async def test_the_reason_of_kubernetes_is_shown(
        self, cluster: Cluster, service: SparkService, pod: dict[str, Any], expected: str, hint: str
    ) -> None:
        """The attempt waits, for most reasons can be removed; a healthy start shows nothing."""
        await submit(service)
        cluster.set_state("SUBMITTED")
        cluster.pods[DRIVER] = pod
        found = await service.status(JOB, 1)
        assert found.detail == f"Kubernetes is starting the driver.{expected}"
        assert hint in found.hint
        assert (found.state, found.can_start) == (EngineState.PENDING, True)

    async def test_what_can_never_start_is_not_waited_for(self, cluster: Cluster, service: SparkService) -> None:
        """The image's name is part of the pod and cannot change."""
        await submit(service)
        cluster.set_state("SUBMITTED")
        cluster.pods[DRIVER] = waits("InvalidImageName", "couldn't parse image name")
        found = await service.status(JOB, 1)
        assert (found.state, found.can_start) == (EngineState.PENDING, False)
        assert "couldn't parse image name" in found.detail

    async def test_the_newest_warning_explains_a_slow_start(
        self, cluster: Cluster, service: SparkService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A volume that is missing shows in events only; those of a pod that has just begun are not read."""
        await submit(service)
        cluster.set_state("SUBMITTED")
        cluster.pods[DRIVER] = waits("ContainerCreating")
        cluster.events = [
            warning("FailedMount", 'configmap "new" not found', "2026-01-01T11:59:59Z"),
            warning("FailedMount", 'configmap "old" not found', "2026-01-01T11:59:41Z"),
        ]
        found = await service.status(JOB, 1)
        assert found.detail == 'Kubernetes is starting the driver. FailedMount: configmap "new" not found.'
        assert cluster.requests[-1][2]["fieldSelector"] == ["involvedObject.uid=u,type=Warning"]
        service._now = lambda: NOW - dt.timedelta(seconds=10)
        assert (await service.status(JOB, 1)).detail == "Kubernetes is starting the driver."

    @pytest.mark.parametrize(("forbidden", "missing"), [("pods", "get pods"), ("events", "list events")])
    async def test_without_the_permission_the_service_works_and_says_once_what_it_lacks(
        self,
        cluster: Cluster,
        service: SparkService,
        forbidden: str,
        missing: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """One log line for all attempts; the note names the permission, and a Role that is granted helps at once."""
        await submit(service)
        cluster.set_state("SUBMITTED")
        cluster.pods[DRIVER] = waits("ContainerCreating")
        cluster.forbidden = {forbidden}
        found = [await service.status(JOB, 1) for _ in range(3)][-1]
        assert (found.state, found.can_start) == (EngineState.PENDING, True)
        assert f"(missing permission: {missing})" in found.detail
        assert "docs/spark-manifest.md" in found.hint
        lines = [record for record in caplog.records if getattr(record, "permission", None) == missing]
        assert len(lines) == 1
        cluster.forbidden = set()
        assert (await service.status(JOB, 1)).detail == "Kubernetes is starting the driver."

    @pytest.mark.parametrize("reply", [(500, b"broken"), (200, b"<html>"), (200, {"kind": "Status"}), (403, b"no")])
    async def test_nothing_depends_on_the_explanation(
        self, cluster: Cluster, service: SparkService, reply: Reply
    ) -> None:
        """A pod that cannot be read, for whatever reason, changes no state: neither of a start nor of an end."""
        await submit(service)
        for state, expected in (("SUBMITTED", EngineState.PENDING), ("FAILED", EngineState.ENDED)):
            cluster.set_state(state)
            replies = iter([None, reply])
            cluster.fault = lambda _, replies=replies: next(replies)
            assert (await service.status(JOB, 1)).state is expected


class TestFailure:
    """Why an attempt failed."""

    async def test_a_failed_submission_keeps_its_reason(self, cluster: Cluster, service: SparkService) -> None:
        """Of a stack trace the exception is shown; no driver is said to have failed where none has run."""
        await submit(service)
        trace = TRACE.format(cause='pods "d" is forbidden: serviceaccount "nobody" not found')
        cluster.set_state("SUBMISSION_FAILED", trace, executions=0)
        assert 'serviceaccount "nobody" not found' in (await service.status(JOB, 1)).detail
        cluster.set_state("FAILED", trace, executions=0)
        found = await service.status(JOB, 1)
        assert found.state is EngineState.ENDED
        assert not found.can_start
        assert found.detail == (
            "spark-submit failed, and the Spark operator gave up. io.fabric8.KubernetesClientException: "
            'pods "d" is forbidden: serviceaccount "nobody" not found.'
        )
        assert "INGEST_SPARK__*" in found.hint

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ({"reason": "Evicted", "message": "The node was low on resource: memory."}, " Evicted: The node was low"),
            (
                {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
                " PreemptionByScheduler.",
            ),
            (
                {
                    "containerStatuses": [
                        {
                            "name": "spark-kubernetes-driver",
                            "state": {"terminated": {"exitCode": 128, "reason": "StartError", "message": "no tini"}},
                        }
                    ]
                },
                " StartError: no tini.",
            ),
            ({"phase": "Failed"}, ""),
        ],
    )
    async def test_a_pod_that_was_ended_tells_why(
        self, cluster: Cluster, service: SparkService, status: dict[str, Any], expected: str
    ) -> None:
        """The operator reports exit codes only."""
        await submit(service)
        cluster.set_state("FAILED", "driver container status missing")
        cluster.pods[DRIVER] = status
        found = await service.status(JOB, 1)
        assert found.detail.startswith(f"The driver failed. driver container status missing.{expected}")
        assert found.can_start


REFUSED = (
    "io.fabric8.KubernetesClientException: Failure executing: POST at: https://10.0.0.1/api. Message: {cause}. "
    "Received status: Status(apiVersion=v1, message={cause}, reason=Forbidden)."
)
TRACE = f"""failed to submit spark application: failed to run spark-submit: failed to run spark-submit: WARNING: modules
26/01/01 12:00:00 ERROR Client: Please check "kubectl auth can-i create pod" first. It should be yes.
Exception in thread "main" {REFUSED}
\tat io.fabric8.copyAsCause(KubernetesClientException.java:205)
Caused by: {REFUSED}
\tat io.fabric8.requestFailure(OperationSupport.java:642)
\tat java.base/java.lang.Thread.run(Thread.java:840)
"""


class TestEnd:
    """Stopping an attempt and reading its log."""

    async def test_stop_deletes_the_driver_first(self, cluster: Cluster, service: SparkService) -> None:
        """Foreground propagation; once more and for an unknown attempt it is no error."""
        await submit(service)
        await service.stop(JOB, 1)
        await service.stop(JOB, 1)
        await service.stop(JOB, 2)
        deletes = [query for method, _, query in cluster.requests if method == "DELETE"]
        assert all(query["propagationPolicy"] == ["Foreground"] for query in deletes)
        assert len(deletes) == 3

    async def test_a_stopped_attempt_that_never_ran_has_ended(self, cluster: Cluster, service: SparkService) -> None:
        """While its object goes away, nobody waits for its driver."""
        await submit(service)
        await service.stop(JOB, 1)
        assert (await service.status(JOB, 1)).state is EngineState.ENDED

    async def test_the_end_of_the_drivers_log_is_read(self, cluster: Cluster, service: SparkService) -> None:
        """From the pod that the operator names, the driver's container, at most 1 MiB."""
        await submit(service)
        cluster.set_state("RUNNING")
        cluster.items[NAME]["status"]["driverInfo"] = {"podName": "its-pod"}
        cluster.logs["its-pod"] = b"x" * LOG_TAIL_BYTES + "\nlast ünd end\n".encode()
        text = await service.logs(JOB, 1)
        assert text is not None
        assert text.endswith("\nlast ünd end\n")
        assert len(text.encode()) == LOG_TAIL_BYTES
        query = cluster.requests[-1][2]
        assert query["container"] == ["spark-kubernetes-driver"]
        assert "tailLines" in query

    async def test_no_log_is_none(self, cluster: Cluster, service: SparkService) -> None:
        """Unknown attempt, pod gone, container still starting: the ledger's tail answers instead."""
        assert await service.logs(JOB, 1) is None
        await submit(service)
        assert await service.logs(JOB, 1) is None
        replies = iter([None, (204, b"")])
        cluster.fault = lambda _: next(replies)
        assert await service.logs(JOB, 1) is None  # the pod has no node yet
        starting = status_of(400, "BadRequest", 'container "spark-kubernetes-driver" is waiting to start')
        logs_only = {"left": 1}

        def fault(_: str) -> Reply | None:
            logs_only["left"] -= 1
            return (400, starting) if logs_only["left"] < 0 else None

        cluster.fault = fault
        assert await service.logs(JOB, 1) is None


class TestManifest:
    """What is shown to people."""

    def test_a_request_shows_the_manifest_it_would_create(self, service: SparkService) -> None:
        """Under an example's id, with the parallelism that would be granted."""
        body = {"source": {"bucket": "docs"}, "collection": "c", "parallelism": 1000}
        shown = service.show_manifest(JobRequest.model_validate(body))
        assert shown["metadata"]["name"] == f"{EXAMPLE_JOB_ID}-01"
        assert shown["spec"]["arguments"][1] == f"s3://state/jobs/{EXAMPLE_JOB_ID}/spec.json"
        executor = shown["spec"]["executor"]
        assert executor["instances"] * executor["cores"] == 4
