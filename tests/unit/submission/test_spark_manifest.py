"""The SparkApplication of an attempt: golden files, the webhook's refusals, and sums that must hold for every job.

``INGEST_WRITE_GOLDEN=1`` writes the golden files anew; read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion_engine.domain.errors import FatalError, SubmissionError
from ingestion_engine.runtime.settings import S3Settings, Settings, SparkSettings, TlsSettings
from ingestion_engine.services.job_ids import JobIds
from ingestion_engine.submission.kubernetes.pod_templates import read_pod_templates
from ingestion_engine.submission.kubernetes.spark_manifest import (
    LABEL_JOB,
    build_manifest,
    check_manifest,
    name_application,
    spread,
)
from support.authority import PrivateAuthority

GOLDEN = Path(__file__).parent / "golden"
DOC = Path(__file__).parents[3] / "docs" / "spark-manifest.md"
JOB = "job-01jd0000000000000000000000"
URI = f"s3://state/ingest/jobs/{JOB}/spec.json"

DENIED_CONF = {
    "spark.master",
    "spark.kubernetes.driver.master",
    "spark.kubernetes.namespace",
    "spark.kubernetes.container.image",
    "spark.kubernetes.driver.container.image",
    "spark.kubernetes.executor.container.image",
    *(
        f"spark.kubernetes.authenticate.{role}{what}"
        for role in ("", "driver.", "executor.")
        for what in ("serviceAccountName", "oauthToken", "oauthTokenFile")
    ),
}
"""What the operator's webhook refuses (internal/webhook/sparkconf_validator.go, 2.5.2)."""

TEMPLATE = {
    "metadata": {"annotations": {"example.org/team": "docs"}},
    "spec": {
        "nodeSelector": {"pool": "batch"},
        "tolerations": [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "10Gi"}}],
        "containers": [{"name": "any", "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}],
    },
}


def make_settings(**spark: Any) -> Settings:
    return Settings(
        s3=S3Settings(endpoint_url="http://minio.storage:9000", region="eu-central-1"),
        spark=SparkSettings(**{"namespace": "spark-jobs", "image": "registry.example/ingest:0.1", **spark}),
    )


def build(parallelism: int = 4, templates: Any = None, **spark: Any) -> dict[str, Any]:
    return build_manifest(
        JOB, 1, URI, parallelism=parallelism, settings=make_settings(**spark), pod_templates=templates
    )


CASES = {
    "minimal": build(),
    "full": build(
        9,
        service_account="spark-driver",
        secret_name="ingest-credentials",
        driver_cores=2,
        driver_memory="2g",
        executor_cores=4,
        executor_memory="2g",
        executor_memory_overhead="8g",
        ttl_s=3600,
        submission_retries=5,
        submission_retry_s=20,
        main_file="local:///app/main.py",
        spark_version="4.0.1",
    ),
    "pod_template": build(3, TEMPLATE, secret_name="ingest-credentials"),
    "template_of_executors": build(1, {"executor": TEMPLATE}, secret_name="ingest-credentials"),
}


@pytest.mark.parametrize("name", CASES)
def test_manifest_is_the_golden_one(name: str) -> None:
    """Whatever changes in a manifest is seen in a review."""
    path = GOLDEN / f"spark_{name}.json"
    text = json.dumps(CASES[name], indent=2) + "\n"
    if os.environ.get("INGEST_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_every_field_is_written_down_with_its_reader() -> None:
    """The tables of docs/spark-manifest.md name the fields that manifests have, all of them and no other."""
    written: set[str] = set()
    for row in DOC.read_text(encoding="utf-8").splitlines():
        role = ""
        for name in re.findall(r"`([a-zA-Z]*\.[a-zA-Z.]+)`", row.split("|")[1]) if row.startswith("| `") else ():
            written.add(role + name if name.startswith(".") else name)
            role = role if name.startswith(".") else name.partition(".")[0]
    made: set[str] = set()
    for case in CASES.values():
        spec = dict(case["spec"])
        parts = {"metadata": case["metadata"], "driver": spec.pop("driver"), "executor": spec.pop("executor")}
        for part, fields in {**parts, "spec": spec}.items():
            made |= {f"{part}.{field}" for field in fields}
        made |= spec["sparkConf"].keys()
    assert written == made


@pytest.mark.parametrize("name", CASES)
def test_manifest_is_nothing_the_webhook_refuses(name: str) -> None:
    """DNS-1035 name, no denied ``sparkConf``, node selectors at one level only, Spark new enough for templates."""
    manifest = CASES[name]
    spec = manifest["spec"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,54}[a-z0-9])?", manifest["metadata"]["name"])
    assert not DENIED_CONF & set(spec["sparkConf"])
    assert "nodeSelector" not in spec
    assert int(spec["sparkVersion"].split(".")[0]) >= 3
    for key, value in manifest["metadata"]["labels"].items():
        assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value), key


@pytest.mark.parametrize("name", CASES)
def test_only_failed_submissions_are_repeated(name: str) -> None:
    """The operator reruns a driver only when ``onFailureRetries`` is set."""
    policy = CASES[name]["spec"]["restartPolicy"]
    assert policy["type"] == "OnFailure"
    assert set(policy) == {"type", "onSubmissionFailureRetries", "onSubmissionFailureRetryInterval"}


@pytest.mark.parametrize("role", ["driver", "executor"])
@pytest.mark.parametrize("name", CASES)
def test_every_pod_gets_environment_once(name: str, role: str) -> None:
    """With a template all is in the template, which the webhook need not touch; without, in the role itself."""
    pod = CASES[name]["spec"][role]
    template = pod.get("template")
    holder = pod if template is None else template["spec"]["containers"][0]
    other = pod if template is not None else {}
    assert {"name": "INGEST_S3__ENDPOINT_URL", "value": "http://minio.storage:9000"} in holder["env"]
    assert {"name": "INGEST_S3__REGION", "value": "eu-central-1"} in holder["env"]
    assert "env" not in other
    assert "envFrom" not in other
    if template is not None:
        assert holder["name"] == f"spark-kubernetes-{role}"


def test_secrets_are_named_and_never_held() -> None:
    """The credentials of the service do not get into a manifest, whatever else does."""
    settings = Settings(
        s3=S3Settings(access_key_id="planted-access", secret_access_key="planted-secret"),
        spark=SparkSettings(namespace="spark", image="i", secret_name="ingest-credentials"),
        qdrant={"url": "http://q", "api_key": "planted-qdrant"},
        weaviate={"url": "http://w", "api_key": "planted-weaviate"},
    )
    text = json.dumps(build_manifest(JOB, 1, URI, parallelism=2, settings=settings))
    assert "planted" not in text
    assert '"envFrom": [{"secretRef": {"name": "ingest-credentials"}}]' in text


def test_pods_get_the_path_of_the_file_of_authorities(tmp_path: Path) -> None:
    """The same path as in the service, unless the pod template sets its own."""
    authority = PrivateAuthority(tmp_path)
    settings = Settings(
        tls=TlsSettings(ca_file=authority.file), spark=SparkSettings(namespace="spark", image="i", secret_name="s")
    )
    entry = {"name": "INGEST_TLS__CA_FILE", "value": str(authority.file)}
    plain = build_manifest(JOB, 1, URI, parallelism=2, settings=settings)
    assert all(entry in plain["spec"][role]["env"] for role in ("driver", "executor"))
    own = {"name": "INGEST_TLS__CA_FILE", "value": "/etc/other/ca.pem"}
    templates = {"spec": {"containers": [{"name": "any", "env": [own]}]}}
    manifest = build_manifest(JOB, 1, URI, parallelism=2, settings=settings, pod_templates=templates)
    env = manifest["spec"]["driver"]["template"]["spec"]["containers"][0]["env"]
    assert [one for one in env if one["name"] == own["name"]] == [own]


def test_labels_of_the_settings_are_the_applications() -> None:
    """A queue of Kueue is one of them; none replaces a label by which the service knows its own application."""
    labels = ("kueue.x-k8s.io/queue-name=batch", "team=", f"{LABEL_JOB}=another")
    found = build(labels=labels)["metadata"]["labels"]
    assert found["kueue.x-k8s.io/queue-name"] == "batch"
    assert found["team"] == ""
    assert found[LABEL_JOB] == JOB


def test_speculation_and_repeated_tasks_are_off() -> None:
    """Either would embed and write a partition twice."""
    conf = build()["spec"]["sparkConf"]
    assert conf["spark.speculation"] == "false"
    assert conf["spark.task.maxFailures"] == "1"
    assert all(isinstance(value, str) for value in conf.values())


@given(parallelism=st.integers(1, 10_000), cores=st.integers(1, 64))
def test_slots_are_enough_and_few(parallelism: int, cores: int) -> None:
    """Executors times cores hold the partitions, with less than one slot per executor left over."""
    slots = spread(parallelism, cores)
    assert 1 <= slots.cores <= cores
    assert parallelism <= slots.instances * slots.cores < parallelism + slots.instances
    assert (slots.instances - 1) * cores < parallelism


def test_names_differ_by_job_and_attempt() -> None:
    """A new attempt never takes the name of one before it; ids made by the service are good names."""
    ids = JobIds()
    jobs = [ids.make() for _ in range(20)]
    names = {name_application(job, attempt) for job in jobs for attempt in range(1, 200)}
    assert len(names) == 20 * 199
    assert all(len(f"{name}-driver") <= 63 for name in names)


@pytest.mark.parametrize("job_id", ["0job", "Job-1", "job_1", "", "j" * 60, "job.1", "-job"])
def test_a_name_kubernetes_would_refuse_is_refused_here(job_id: str) -> None:
    """Better a clear answer than a webhook's."""
    with pytest.raises(SubmissionError) as raised:
        name_application(job_id, 1)
    assert raised.value.code == "engine_refused"


@pytest.mark.parametrize("missing", ["namespace", "image"])
def test_missing_settings_are_named(missing: str) -> None:
    """The answer says which variable to set."""
    with pytest.raises(SubmissionError) as raised:
        build(**{missing: None})
    assert raised.value.code == "engine_not_configured"
    assert raised.value.hint == f"Set INGEST_SPARK__{missing.upper()} on the service."


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ({"spec": {"nodeSelectr": {"a": "b"}}}, "spec.driver.template.spec.nodeSelectr"),
        ({"spec": {"tolerations": "all"}}, "Toleration"),
        ({"spec": {"containers": {"name": "x"}}}, "driver.template.spec.containers"),
        ({"nodeSelector": {"a": "b"}}, "driver.template"),
        ({"executor": {"spec": []}}, "executor.template"),
    ],
)
def test_a_template_kubernetes_would_prune_is_refused(template: dict[str, Any], fault: str) -> None:
    """A field that nobody reads is a typing error; the answer names its path."""
    with pytest.raises(SubmissionError) as raised:
        build(2, template)
    assert raised.value.code == "engine_refused"
    assert fault in raised.value.message


def test_a_template_is_not_changed_by_its_use() -> None:
    """The builder is pure: the same template serves every job."""
    before = json.dumps(TEMPLATE)
    build(2, TEMPLATE)
    assert json.dumps(TEMPLATE) == before


def test_the_models_know_what_they_check() -> None:
    """A manifest with an unknown field, a missing one or one of a wrong type does not pass."""
    for path, value in (("sparkConff", {}), ("timeToLiveSeconds", "soon"), ("mainApplicationFile", None)):
        manifest = build()
        manifest["spec"][path] = value if value != {} else {"a": "b"}
        with pytest.raises(SubmissionError):
            check_manifest(manifest)


def test_templates_are_read_from_yaml_and_json(tmp_path: Path) -> None:
    """Both are what people write; no file means no template."""
    yaml_file, json_file = tmp_path / "t.yaml", tmp_path / "t.json"
    yaml_file.write_text("spec:\n  nodeSelector: {pool: batch}\n")
    json_file.write_text(json.dumps(TEMPLATE))
    assert read_pod_templates(yaml_file) == {"spec": {"nodeSelector": {"pool": "batch"}}}
    assert read_pod_templates(json_file) == TEMPLATE
    assert read_pod_templates(None) is None


@pytest.mark.parametrize("content", [None, b"- a list", b"a: [unclosed", b"\xff\xfe\x00"])
def test_an_unusable_template_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    """The service says so when it starts, not when a job does."""
    path = tmp_path / "template.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FatalError) as raised:
        read_pod_templates(path)
    assert raised.value.code == "engine_misconfigured"
    assert "template.yaml" in raised.value.message
