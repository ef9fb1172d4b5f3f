"""SparkApplications on Kubernetes, through the service's own client.

The cluster is the embedded one, or the one that INGEST_SPARK__NAMESPACE names, with INGEST_SPARK__KUBECONFIG and
INGEST_SPARK__CONTEXT as for the service. It needs the CRDs, the controller and the webhooks of the Spark operator; the
account needs the Role of docs/spark-manifest.md. No driver runs, so any name of an image will do.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingestion_engine.domain.errors import SubmissionError, TransientError
from ingestion_engine.domain.ports import EngineStatus
from ingestion_engine.domain.states import EngineState
from ingestion_engine.runtime.settings import Settings, SparkSettings, load_settings
from ingestion_engine.services.spark_service import SparkService
from ingestion_engine.submission.kubernetes.api import KubernetesApi
from support.kubernetes_cluster import WATCHED, Cluster, manifest
from support.servers import free_port

IMAGE = "registry.example/nothing:1"


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSettings]:
    """A cluster: the one that the environment names, else the embedded one."""
    given = load_settings().spark
    if given.namespace is not None:
        yield given.model_copy(update={"image": given.image or IMAGE})
        return
    running = Cluster(tmp_path_factory.mktemp("kube") / "data", free_port())
    yield SparkSettings(namespace=WATCHED, image=IMAGE, kubeconfig=running.data_dir / "kubeconfig")
    running.close()


@pytest.fixture
def job_id() -> str:
    return f"job-{secrets.token_hex(13)}"


@pytest.fixture
async def api(spark: SparkSettings) -> AsyncIterator[KubernetesApi]:
    made = KubernetesApi(str(spark.namespace), kubeconfig=spark.kubeconfig, context=spark.context)
    yield made
    await made.close()


@pytest.fixture
async def service(spark: SparkSettings, job_id: str) -> AsyncIterator[SparkService]:
    """A service whose only job waits for a secret that does not exist, and is removed at the end."""
    made = make_service(spark, secret_name=f"no-{job_id}")
    yield made
    await made.stop(job_id, 1)
    await made.close()


def make_service(spark: SparkSettings, **changes: Any) -> SparkService:
    once = {"submission_retries": 0, **changes}
    return SparkService.from_settings(Settings(spark=spark.model_copy(update=once), state_url="s3://state"))


async def submit(service: SparkService, job_id: str) -> None:
    await service.submit(job_id, 1, f"s3://state/jobs/{job_id}/spec.json", 1)


async def wait(service: SparkService, job_id: str, fact: Callable[[EngineStatus], bool]) -> EngineStatus:
    """The status of the first attempt, once it is as described."""
    async with asyncio.timeout(120):
        while True:
            status = await service.status(job_id, 1)
            if fact(status):
                return status
            await asyncio.sleep(0.2)  # between two requests


async def test_an_attempt_is_created_once_and_removed(service: SparkService, job_id: str) -> None:
    """Submitted twice it is one; unknown attempts are absent, have no log and are stopped without an error."""
    assert (await service.status(job_id, 1)).state is EngineState.ABSENT
    assert await service.logs(job_id, 1) is None
    await submit(service, job_id)
    await submit(service, job_id)
    assert (await service.status(job_id, 1)).state is EngineState.PENDING
    await service.stop(job_id, 1)
    await wait(service, job_id, lambda status: status.state in {EngineState.ENDED, EngineState.ABSENT})
    await wait(service, job_id, lambda status: status.state is EngineState.ABSENT)
    await service.stop(job_id, 1)


async def test_another_jobs_application_is_not_taken_for_ours(service: SparkService, job_id: str) -> None:
    """The arguments of the driver tell it."""
    await submit(service, job_id)
    with pytest.raises(SubmissionError, match="belongs to another job or service"):
        await service.submit(job_id, 1, "s3://elsewhere/jobs/x/spec.json", 1)


async def test_the_cluster_has_a_version(api: KubernetesApi) -> None:
    assert (await api.get_version()).startswith("v")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "wrong type": ("fine", {"driver": {"cores": "1"}}, "cannot unmarshal string into Go struct field"),
    "unknown field": ("fine", {"colour": "red"}, 'unknown field "spec.colour"'),
    "no main file": ("fine", {"mainApplicationFile": None}, "spec.mainApplicationFile"),
    "value of an enumeration": ("fine", {"restartPolicy": {"type": "Sometimes"}}, "Unsupported value"),
    "value below the minimum": ("fine", {"driver": {"cores": 0}}, "greater than or equal to 1"),
    "name of no DNS label": ("1digit", {}, "a DNS-1035 label must"),
    "name of no subdomain": ("Big_Name", {}, "a lowercase RFC 1123 subdomain must"),
    "managed key of sparkConf": ("fine", {"sparkConf": {"spark.master": "local"}}, "is not allowed"),
    "template for old Spark": (
        "fine",
        {"sparkVersion": "2.4.8", "driver": {"template": {"spec": {"containers": []}}}},
        "requires Spark version 3.0.0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_manifest_is_refused_with_the_clusters_reason(api: KubernetesApi, case: str) -> None:
    """By the schema of the CRD, by the mutating or by the validating webhook: each refuses for good."""
    name, change, why = REFUSED[case]
    with pytest.raises(SubmissionError) as caught:
        await api.create_application(manifest(name, **change))
    assert caught.value.code == "engine_refused"
    assert why in caught.value.message


async def test_what_the_mutating_webhook_completes_is_accepted(api: KubernetesApi, job_id: str) -> None:
    """Without version and executor, and with a volume without a name: only ``spark-submit`` fails."""
    body = manifest(job_id, volumes=[{"emptyDir": {}}])
    del body["spec"]["sparkVersion"], body["spec"]["executor"]
    try:
        assert await api.create_application(body) is not None
    finally:
        await api.delete_application(job_id)


async def test_a_failed_submission_keeps_its_reason(spark: SparkSettings, job_id: str) -> None:
    """A service account that does not exist is named, and no driver is said to have failed."""
    service = make_service(spark, service_account="nobody-at-all")
    try:
        await submit(service, job_id)
        status = await wait(service, job_id, lambda status: status.state is EngineState.ENDED)
        assert 'serviceaccount "nobody-at-all" not found' in status.detail
        assert not status.can_start
        assert "driver failed" not in status.detail
    finally:
        await service.stop(job_id, 1)
        await service.close()


async def test_what_keeps_a_driver_from_starting_is_shown(service: SparkService, job_id: str) -> None:
    """A secret that does not exist, or what comes before it: no node with room, an image that cannot be pulled."""
    await submit(service, job_id)
    plain = {"The Spark operator has not processed it yet.", "Kubernetes is starting the driver."}
    status = await wait(service, job_id, lambda status: status.detail not in plain)
    assert (status.state, status.can_start) == (EngineState.PENDING, True)
    reasons = ("CreateContainerConfigError", "Unschedulable", "ErrImagePull", "ImagePullBackOff")
    assert any(f"Kubernetes is starting the driver. {reason}: " in status.detail for reason in reasons)
    assert status.hint
    assert await service.logs(job_id, 1) is None


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"token": "wrong"}, {"engine_access_denied"}),
        ({"token": None}, {"engine_access_denied"}),
        # A real API server answers plain HTTP on its TLS port with 400, the embedded one closes the connection.
        ({"scheme": "http"}, {"engine_unexpected_answer", "engine_unreachable"}),
    ],
)
async def test_a_wrong_kubeconfig_is_no_refusal(
    spark: SparkSettings, tmp_path: Path, job_id: str, change: dict[str, Any], codes: set[str]
) -> None:
    """Of the manifest: with other credentials, without any, or with plain HTTP the job waits and says why."""
    service = make_service(spark, kubeconfig=write_kubeconfig(spark, tmp_path / "changed", **change), context=None)
    with pytest.raises(TransientError) as caught:
        await submit(service, job_id)
    assert caught.value.code in codes
    await service.close()


async def test_a_namespace_that_does_not_exist_is_no_refusal(spark: SparkSettings, job_id: str) -> None:
    """It may be created later; an account of another namespace is denied access instead."""
    service = make_service(spark, namespace=f"no-{job_id[:20]}")
    with pytest.raises(TransientError) as caught:
        await submit(service, job_id)
    assert caught.value.code in {"engine_unexpected_answer", "engine_access_denied"}
    await service.close()


def write_kubeconfig(spark: SparkSettings, path: Path, *, token: str | None = "", scheme: str = "https") -> Path:
    """Write the kubeconfig of a cluster with another token, with none, or with another scheme; return the path."""
    kubeconfig = spark.kubeconfig or Path("~/.kube/config").expanduser()
    config = yaml.safe_load(kubeconfig.read_text())
    name = spark.context or config["current-context"]
    context = next(entry["context"] for entry in config["contexts"] if entry["name"] == name)
    cluster = next(entry["cluster"] for entry in config["clusters"] if entry["name"] == context["cluster"])
    user = next(entry["user"] for entry in config["users"] if entry["name"] == context["user"])
    if token != "":
        user = {} if token is None else {"token": token}
    cluster["server"] = f"{scheme}://{cluster['server'].partition('://')[2]}"
    changed = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(changed))
    return path
