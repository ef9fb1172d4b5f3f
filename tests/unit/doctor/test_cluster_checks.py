"""Ray's and Spark's checks, each thing broken in turn: the line that helps."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.doctor import ray_cluster, spark_cluster
from ingestion_engine.doctor.findings import State
from ingestion_engine.domain.errors import TransientError
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.submission.kubernetes.api import ApplicationTrial
from ingestion_engine.submission.kubernetes.permissions import PERMISSIONS, READ_LOG, Permission
from support.answering import running
from support.doctoring import diagnose, worst
from support.servers import free_port

TOKEN = "token-of-the-cluster"


def head(*, version: str = "2.60.0", is_open: bool = False) -> type[BaseHTTPRequestHandler]:
    """A Ray head as 2.60.0 answers, with or without token authentication."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("authorization")
            if not is_open and sent is None:
                return self.answer(401, b"Unauthorized: Missing authentication token")
            if not is_open and sent != f"Bearer {TOKEN}":
                return self.answer(403, b"Forbidden: Invalid authentication token")
            if self.path == "/api/version":
                return self.answer(200, b'{"version": "4", "ray_version": "%s"}' % version.encode())
            return self.answer(404, b"Job ingest-doctor does not exist")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    return Handler


async def test_ray_with_its_token_is_good() -> None:
    """The token is accepted, and a request without one is not."""
    with running(head()) as url:
        (found,) = await diagnose(Settings(ray={"address": url, "auth_token": TOKEN}), "ray")
    assert (found.state, found.facts["open"]) == (State.OK, False)
    assert found.detail == f"Ray 2.60.0 at {url}: token accepted, and required"


@pytest.mark.parametrize(
    ("token", "words"), [(None, "requires a token"), ("another-token", "rejected the token")], ids=["none", "wrong"]
)
async def test_a_token_that_ray_does_not_accept(token: str | None, words: str) -> None:
    """The hint names the setting; the token is not shown."""
    with running(head()) as url:
        (found,) = await diagnose(Settings(ray={"address": url, "auth_token": token}), "ray")
    assert (found.state, found.code) == (State.FAILED, "engine_access_denied")
    assert words in found.detail
    assert found.hint.startswith("Set INGEST_RAY__AUTH_TOKEN")
    assert "another-token" not in found.detail + found.hint


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_an_open_ray_is_refused(token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a token of ours, which it ignores; on loopback, where only this machine reaches it, it is a warning."""
    with running(head(is_open=True)) as url:
        settings = Settings(ray={"address": url, "auth_token": token})
        (near,) = await diagnose(settings, "ray")
        monkeypatch.setattr(ray_cluster, "_is_loopback", lambda _url: False)
        (far,) = await diagnose(settings, "ray")
    assert near.state is State.WARNING
    assert (far.state, far.code) == (State.FAILED, "ray_open")
    assert far.hint.startswith("Start Ray with RAY_AUTH_MODE=token")


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8265", True),
        ("http://[::1]:8265", True),
        ("http://localhost:8265", True),
        ("http://ray-head:8265", False),
        ("https://10.0.0.7", False),
    ],
)
def test_what_is_loopback(url: str, loopback: bool) -> None:
    """A name other than localhost is not."""
    assert ray_cluster._is_loopback(url) is loopback


async def test_a_ray_before_token_authentication() -> None:
    """It could not be closed, so the version comes first."""
    with running(head(version="2.51.9", is_open=True)) as url:
        (found,) = await diagnose(Settings(ray={"address": url}), "ray")
    assert (found.state, found.hint) == (State.FAILED, "Upgrade the cluster to Ray 2.52 or later.")


async def test_ray_that_is_stopped_or_not_named() -> None:
    """What is not configured is no failure while another engine is."""
    settings = Settings(ray={"address": f"http://127.0.0.1:{free_port()}"})
    (found,) = await diagnose(settings, "ray")
    assert (found.detail, found.hint) == (
        "Ray cannot be reached.",
        "Check INGEST_RAY__ADDRESS, and that the head runs.",
    )
    (found,) = await diagnose(Settings(spark={"namespace": "spark"}), "ray")
    assert (found.state, found.hint) == (State.NOT_CONFIGURED, "Set INGEST_RAY__ADDRESS to use it.")
    (found,) = await diagnose(Settings(), "ray")
    assert (found.state, found.code) == (State.FAILED, "engine_not_configured")


class ScriptedCluster:
    """The client of Kubernetes, with a cluster that a test describes."""

    missing: frozenset[Permission] = frozenset()
    has_crd = True
    trial: ApplicationTrial = ApplicationTrial()
    manifest: Any = None
    fault: TransientError | None = None

    def __init__(self, *_: object, **__: object) -> None: ...

    async def close(self) -> None: ...

    async def get_version(self) -> str:
        if self.fault is not None:
            raise self.fault
        return "v1.34.1"

    async def is_allowed(self, permission: Permission) -> bool:
        return permission not in self.missing

    async def has_resource(self) -> bool:
        return self.has_crd

    async def try_application(self, manifest: Any) -> ApplicationTrial:
        type(self).manifest = manifest
        return self.trial


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedCluster]:
    described = type("Described", (ScriptedCluster,), {})
    monkeypatch.setattr(spark_cluster, "KubernetesApi", described)
    return described


def spark(**fields: Any) -> Settings:
    return Settings(
        state_url="s3://state",
        spark={"namespace": "jobs", "image": "registry/spark:1", "secret_name": "ingest", **fields},
    )


async def test_a_whole_cluster_is_good(cluster: type[ScriptedCluster]) -> None:
    """What the account may not see is said, with the command for somebody who may."""
    api, operator, unseen = await diagnose(spark(), "kubernetes", "spark")
    assert (api.state, operator.state, unseen.state) == (State.OK, State.OK, State.SKIPPED)
    assert api.detail == f"Kubernetes v1.34.1, {len(PERMISSIONS)} of {len(PERMISSIONS)} permissions in namespace 'jobs'"
    assert unseen.hint == "Run as an administrator: kubectl -n jobs get serviceaccount/default secret/ingest"
    assert cluster.manifest["metadata"]["namespace"] == "jobs"


async def test_missing_permissions_are_named(cluster: type[ScriptedCluster]) -> None:
    """Those that jobs require fail; those that only explain warn."""
    cluster.missing = frozenset(one for one in PERMISSIONS if one.verb in {"delete", "list"} or one is READ_LOG)
    _, required, optional, *_ = await diagnose(spark(), "kubernetes", "spark")
    assert (required.state, optional.state) == (State.FAILED, State.WARNING)
    assert required.detail == "The account may not delete sparkapplications, get pods/log, which Spark jobs require."
    assert optional.detail.startswith("The account may not list events:")
    assert required.hint == "Bind the Role of docs/spark-manifest.md to the account of the service."


BROKEN: list[Any] = [
    pytest.param({"has_crd": False}, {}, "Install the Spark operator with its CRDs.", id="no operator"),
    pytest.param(
        {"trial": ApplicationTrial(has_webhook=False)},
        {},
        "Install the Spark operator with webhook.enable=true and 'jobs' in spark.jobNamespaces.",
        id="the operator does not watch the namespace",
    ),
    pytest.param(
        {"trial": ApplicationTrial('failed calling webhook "mutate"', is_webhook_down=True)},
        {},
        "Check the operator's pods: kubectl get pods -A -l app.kubernetes.io/name=spark-operator",
        id="the operator's webhook is down",
    ),
    pytest.param(
        {"trial": ApplicationTrial("exceeded quota: few")},
        {},
        "Check the INGEST_SPARK__* settings, and the policies and quotas of the namespace.",
        id="a quota",
    ),
    pytest.param(
        {}, {"image": None}, "Set INGEST_SPARK__IMAGE to an image built from deploy/images/spark.", id="image"
    ),
    pytest.param(
        {},
        {"pod_template": Path("/no/template.yaml")},
        "Set INGEST_SPARK__POD_TEMPLATE to a YAML or JSON file.",
        id="tpl",
    ),
]


@pytest.mark.parametrize(("changes", "fields", "hint"), BROKEN)
async def test_a_broken_cluster(
    cluster: type[ScriptedCluster], changes: dict[str, Any], fields: dict[str, Any], hint: str
) -> None:
    """One line that helps; the API server itself is good."""
    for name, value in changes.items():
        setattr(cluster, name, value)
    findings = await diagnose(spark(**fields), "kubernetes", "spark")
    assert findings[0].state is State.OK
    found = worst(findings)
    assert (found.state, found.hint) == (State.FAILED, hint)


async def test_no_cluster_no_check_of_the_operator(cluster: type[ScriptedCluster]) -> None:
    """Only the cause is a failure."""
    cluster.fault = TransientError("engine_unreachable", "Kubernetes cannot be reached.")
    api, operator = await diagnose(spark(), "kubernetes", "spark")
    assert (api.state, api.hint) == (
        State.FAILED,
        "Check that the API server runs, and INGEST_SPARK__KUBECONFIG or the service account of this pod.",
    )
    assert (operator.state, operator.detail) == (State.SKIPPED, "because 'kubernetes' is not ok")


async def test_a_template_replaces_the_webhook(cluster: type[ScriptedCluster], tmp_path: Path) -> None:
    """With a pod template, pods have their variables without it."""
    template = tmp_path / "template.yaml"
    template.write_text("spec: {containers: [{name: spark}]}")
    cluster.trial = ApplicationTrial(has_webhook=False)
    found = worst(await diagnose(spark(pod_template=template), "spark"))
    assert found.state is State.WARNING
