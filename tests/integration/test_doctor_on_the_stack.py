"""`ingest doctor` from a shell with the variables of the running stack: all good, and broken in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from ingestion_devstack.stack.environment import apply_variables
from ingestion_engine.doctor.context import Role
from ingestion_engine.doctor.examination import CHECKS
from ingestion_engine.doctor.findings import State
from support.doctoring import diagnose
from support.platform_world import Platform
from support.servers import free_port

MODEL = {"INGEST_OLLAMA__MODEL": "hash-384"}
"""The stack of the tests has cheap models."""


def examine(platform: Platform, *arguments: str, **changes: str) -> tuple[int, dict[str, Any]]:
    """Run the command with ``--json``; its exit code and its report."""
    done = run(platform, "--json", *arguments, **changes)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def run(platform: Platform, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **platform.env, **MODEL, **changes}
    command = [sys.executable, "-m", "ingestion_engine.cli", "doctor", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)


def states(report: Mapping[str, Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in report["checks"]:
        found.setdefault(one["name"], set()).add(one["state"])
    return found


def names_of_collections(platform: Platform) -> set[str]:
    return {one["name"] for one in platform.http.get("/collections").json()["items"]}


def test_the_whole_stack_is_good(platform: Platform) -> None:
    """Every check of the service is ok, or about something that the stack does not have; no secret is shown."""
    platform.upload("docs", [("doctor/a.txt", b"Something to read.")])
    code, report = examine(platform, "--bucket", "docs/doctor/")
    bad = [one for one in report["checks"] if one["state"] in {"failed", "warning"}]
    assert (code, report["ok"], bad) == (0, True, [])
    found = states(report)
    assert [*found] == [check.name for check in CHECKS if Role.SERVICE in check.roles]
    assert {name for name, some in found.items() if "ok" not in some} == {"tls", "api-keys", "oidc", "ollama", "job"}
    shown = json.dumps(report)
    for name, value in platform.env.items():
        assert value not in shown or not name.endswith(("_KEY", "_KEY_ID", "_TOKEN"))


def test_a_real_job_runs_on_every_engine(platform: Platform) -> None:
    """Through the service, with a search in both stores; afterwards bucket, stores and collections are as before."""
    before = names_of_collections(platform)
    url = str(platform.http.base_url)
    code, report = examine(platform, "--only", "s3", "--submit", "--bucket", "docs", "--url", url)
    assert code == 0, report
    jobs = {one["target"]: one for one in report["checks"] if one["name"] == "job"}
    assert {target: one["state"] for target, one in jobs.items()} == {"ray": "ok", "spark": "ok"}
    for one in jobs.values():
        assert platform.http.get(f"/jobs/{one['facts']['job_id']}").json()["counts"]["done"] == 1
    assert names_of_collections(platform) == before
    listed = platform.s3().list_objects_v2(Bucket="docs", Prefix="ingest_doctor_")
    assert listed["KeyCount"] == 0


@pytest.mark.parametrize("role", [Role.WORKER, Role.GATEWAY])
def test_workers_and_gateway_are_good(platform: Platform, role: Role) -> None:
    """Each has what it needs; a person reads one line per check, and a hint below what is not ok."""
    done = run(platform, "--role", str(role))
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    names = [line[9:].split()[0] for line in lines if line[0] != " " and not line.startswith("ok: ")]
    assert list(dict.fromkeys(names)) == [check.name for check in CHECKS if role in check.roles]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(("not set", "skipped")):
            assert following.strip().startswith("-> ")
    assert lines[-1].startswith("ok: ")


NOWHERE = f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        ({"INGEST_S3__SECRET_ACCESS_KEY": "wrong"}, "s3", "Check INGEST_S3__ACCESS_KEY_ID"),
        ({"INGEST_STATE_URL": "s3://no-such-bucket"}, "state", "Check the name and INGEST_S3__ENDPOINT_URL"),
        ({"INGEST_GATEWAY__URL": NOWHERE}, "gateway", "Start `ingest gateway` there"),
        ({"INGEST_OLLAMA__MODEL": "no-such-model"}, "gateway", "Run `ollama pull no-such-model`"),
        ({"INGEST_QDRANT__API_KEY": "wrong"}, "qdrant", "Check INGEST_QDRANT__API_KEY"),
        ({"INGEST_WEAVIATE__API_KEY": "wrong"}, "weaviate", "Check INGEST_WEAVIATE__API_KEY"),
        ({"INGEST_WEAVIATE__GRPC_URL": NOWHERE}, "weaviate", "Check INGEST_WEAVIATE__URL and INGEST_WEAVIATE__GRPC"),
        ({"INGEST_RAY__AUTH_TOKEN": "wrong"}, "ray", "Set INGEST_RAY__AUTH_TOKEN"),
        ({"INGEST_RAY__ADDRESS": NOWHERE}, "ray", "Check INGEST_RAY__ADDRESS"),
        ({"INGEST_SPARK__KUBECONFIG": "/no/kubeconfig"}, "kubernetes", "Check INGEST_SPARK__KUBECONFIG"),
        ({"INGEST_SPARK__NAMESPACE": "elsewhere"}, "spark", "Create the namespace"),
        ({"INGEST_DATABASE_URL": "postgresql://a:b@127.0.0.1:1/jobs"}, "database", "Check INGEST_DATABASE_URL"),
    ],
)
async def test_one_thing_broken(platform: Platform, change: dict[str, str], check: str, words: str) -> None:
    """Its check, and no other one, fails with the line that helps."""
    found = await diagnose(apply_variables(platform.settings, {**MODEL, **change}), time_limit_s=60.0)
    failed = [one for one in found if one.state is State.FAILED]
    assert {one.name for one in failed} == {check}, failed
    assert failed[0].hint.startswith(words)


async def test_kubernetes_broken_in_turn(platform: Platform) -> None:
    """A permission that is missing, and an operator whose webhook is away or does not answer."""
    faults: list[tuple[dict[str, Any], str, str]] = [
        ({"denied": ["get pods/log"]}, "kubernetes", "Bind the Role of docs/spark-manifest.md"),
        ({"webhook": "absent"}, "spark", "Install the Spark operator with webhook.enable=true"),
        ({"webhook": "down"}, "spark", "Check the operator's pods"),
    ]
    for fault, name, words in faults:
        platform.fault_kubernetes(fault)
        try:
            found = await diagnose(platform.settings, "kubernetes", "spark")
        finally:
            platform.fault_kubernetes({})
        failed = [one for one in found if one.state is State.FAILED]
        assert [one.name for one in failed] == [name]
        assert failed[0].hint.startswith(words)
