"""The Kubernetes API for SparkApplications, by the official client: what the embedded operator answers and does."""

import json
import secrets
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import psutil
import pytest
from kubernetes.client.exceptions import ApiException

from ingestion_engine.devstack import kube_states as states
from ingestion_engine.devstack.kube_config import write_secret
from ingestion_engine.devstack.kube_java import SparkMissingError, find_java
from ingestion_engine.devstack.kube_submit import Machine, SubmissionRefusedError, build_driver_pod
from servers import RunningServer, free_port, start_command

GROUP, VERSION, PLURAL = "sparkoperator.k8s.io", "v1beta2", "sparkapplications"
WATCHED, UNWATCHED = "spark", "default"
DEADLINE_S = 60

REAL_JOB = """
import os, sys
from pyspark.sql import SparkSession

context = SparkSession.builder.getOrCreate().sparkContext
total = context.parallelize(range(100), 4).map(lambda x: x * x).sum()
print("RESULT", total, context.master, context.appName, sys.argv[1:], flush=True)
print("ENV", os.environ["PLAIN"], os.environ["FROM_REF"], os.environ["P_ALL"], "KUBE_TOKEN" in os.environ, flush=True)
context.stop()
"""
SLEEPING_JOB = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("PIDS", os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
FAILING_JOB = "import sys; print('about to fail', flush=True); sys.exit(3)"


class Cluster:
    """One server and the official client's view of it."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.token = secrets.token_urlsafe(16)
        self.port = port
        self.server = self.start()
        self.client = kubernetes.config.new_client_from_config(str(data_dir / "kubeconfig"))
        self.custom = kubernetes.client.CustomObjectsApi(self.client)
        self.core = kubernetes.client.CoreV1Api(self.client)
        self.http = httpx.Client(
            base_url=self.server.url,
            headers={"Authorization": f"Bearer {self.token}"},
            verify=ssl.create_default_context(cafile=data_dir / "tls/ca.crt"),
        )

    def start(self) -> RunningServer:
        url = f"https://127.0.0.1:{self.port}"
        module = "ingestion_engine.devstack.kube_server"
        arguments = ["--port", str(self.port), "--data-dir", str(self.data_dir), "--namespace", WATCHED, "--faults"]

        def is_ready() -> bool:
            return httpx.get(f"{url}/readyz", verify=False, timeout=2).status_code == 200

        command = [sys.executable, "-m", module, *arguments]
        log = self.data_dir.parent / f"{self.data_dir.name}.log"
        return start_command("kube", command, url=url, log=log, env={"KUBE_TOKEN": self.token}, is_ready=is_ready)

    def close(self) -> None:
        self.http.close()
        self.client.close()
        self.server.stop()

    def create(self, body: dict[str, Any], namespace: str = UNWATCHED, **options: Any) -> Any:
        return self.custom.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, body, **options)

    def get(self, name: str, namespace: str = UNWATCHED) -> Any:
        return self.custom.get_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)

    def find(self, namespace: str = UNWATCHED, **options: Any) -> Any:
        return self.custom.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, **options)

    def delete(self, name: str, namespace: str = UNWATCHED, **options: Any) -> Any:
        return self.custom.delete_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name, **options)

    def state(self, name: str) -> str:
        return states.state_of(self.get(name, WATCHED))

    def log(self, name: str, **options: Any) -> str:
        return str(self.core.read_namespaced_pod_log(f"{name}-driver", WATCHED, **options))

    def fault(self, **faults: Any) -> None:
        self.http.post("/_faults", json=faults).raise_for_status()

    def states_of(self, name: str, until: str, since: str = "0") -> list[str]:
        """Every state that a watch sees, without repetitions, up to `until`."""
        seen: list[str] = []
        selector = f"metadata.name={name}"
        stream = kubernetes.watch.Watch().stream(
            self.find, WATCHED, field_selector=selector, resource_version=since, timeout_seconds=DEADLINE_S
        )
        for event in stream:
            state = states.state_of(event["object"])
            if seen[-1:] != [state]:
                seen.append(state)
            if state == until:
                break
        return seen


def manifest(name: str, main: Path | str = "/no/main.py", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SparkApplication",
        "metadata": {"name": name, "labels": {"job": name[:63]}},
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "sparkVersion": "4.0.0",
            "image": "registry.example/ingest:1",
            "mainApplicationFile": f"local://{main}",
            "restartPolicy": {
                "type": "OnFailure",
                "onSubmissionFailureRetries": 1,
                "onSubmissionFailureRetryInterval": 1,
            },
            "driver": {"cores": 1, "memory": "512m"},
            "executor": {"cores": 1, "instances": 2, "memory": "512m"},
            **spec,
        },
    }


def wait_for(fact: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := fact()):
        assert time.monotonic() < deadline, "the awaited fact did not come true"
        time.sleep(0.05)
    return found


def refusal(call: Callable[[], Any]) -> tuple[int, dict[str, Any]]:
    with pytest.raises(ApiException) as caught:
        call()
    return int(caught.value.status), json.loads(caught.value.body)


def lives(pid: int) -> bool:
    """Whether a process runs; one that is dead and waits for its parent to notice does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sleeping_pids(cluster: Cluster, name: str) -> list[int]:
    """Process ids of a driver that sleeps, and of a child of it in a session of its own."""

    def look() -> list[int]:
        if cluster.state(name) != states.RUNNING:
            return []
        lines = [line.split() for line in cluster.log(name).splitlines() if line.startswith("PIDS")]
        return [int(pid) for pid in lines[0][1:]] if lines else []

    return list(wait_for(look))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("kube") / "data", free_port())
    yield running
    running.close()


@pytest.fixture(scope="module")
def mains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mains")
    for name, text in (("real", REAL_JOB), ("sleeping", SLEEPING_JOB), ("failing", FAILING_JOB)):
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module", autouse=True)
def slow_jobs(cluster: Cluster, mains: Path) -> None:
    """What takes Spark's start is started before the first test, and looked at by the last ones."""
    environment = {
        "env": [
            {"name": "PLAIN", "value": "plain"},
            {"name": "FROM_REF", "valueFrom": {"secretKeyRef": {"name": "login", "key": "word"}}},
        ],
        "envFrom": [{"prefix": "P_", "secretRef": {"name": "login"}}],
    }
    driver = {"cores": 1, "memory": "512m", **environment}
    cluster.create(manifest("real", mains / "real.py", driver=driver, arguments=["a", "b c"]), WATCHED)
    cluster.create(manifest("failing", mains / "failing.py"), WATCHED)
    cluster.create(manifest("sleeping", mains / "sleeping.py"), WATCHED)
    cluster.create(manifest("podless", mains / "sleeping.py"), WATCHED)


class TestAccess:
    def test_a_request_without_the_right_token_is_unauthorized(self, cluster: Cluster) -> None:
        trust = ssl.create_default_context(cafile=cluster.data_dir / "tls/ca.crt")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
            with httpx.Client(verify=trust, headers=headers) as client:
                answer = client.get(f"{cluster.server.url}/apis/{GROUP}/{VERSION}/{PLURAL}")
            assert answer.status_code == 401
            assert answer.json()["reason"] == "Unauthorized"
            assert answer.json()["kind"] == "Status"

    def test_version_and_discovery_are_what_clients_look_up_first(self, cluster: Cluster) -> None:
        assert kubernetes.client.VersionApi(cluster.client).get_code().major == "1"
        listed = cluster.http.get(f"/apis/{GROUP}/{VERSION}").json()["resources"]
        assert {"sparkapplications", "sparkapplications/status"} == {entry["name"] for entry in listed}
        assert [n.metadata.name for n in cluster.core.list_namespace().items] == ["default", "kube-system", "spark"]

    def test_the_kubeconfig_is_private(self, cluster: Cluster) -> None:
        assert (cluster.data_dir / "kubeconfig").stat().st_mode & 0o777 == 0o600

    def test_an_unknown_path_is_404_and_an_unknown_verb_405(self, cluster: Cluster) -> None:
        assert cluster.http.get("/apis/batch/v1/jobs").status_code == 404
        assert cluster.http.get("/api/v1/namespaces/default/secrets").status_code == 404
        answer = cluster.http.delete(f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}")
        assert (answer.status_code, answer.json()["reason"]) == (405, "MethodNotAllowed")

    def test_without_a_token_the_server_does_not_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ingestion_engine.devstack.kube_server import main

        monkeypatch.delenv("KUBE_TOKEN", raising=False)
        assert main(["--data-dir", str(tmp_path / "none"), "--port", "0"]) == 2


class TestCreate:
    def test_a_created_application_has_identity_defaults_and_no_status(self, cluster: Cluster) -> None:
        made = cluster.create(manifest("made"))
        assert made["metadata"]["generation"] == 1
        assert made["spec"]["restartPolicy"]["onFailureRetryInterval"] == 5
        assert "status" not in made
        assert cluster.get("made") == made

    def test_the_same_name_again_is_409(self, cluster: Cluster) -> None:
        cluster.create(manifest("twice"))
        code, status = refusal(lambda: cluster.create(manifest("twice")))
        assert code == 409
        assert status["reason"] == "AlreadyExists"
        assert status["message"] == 'sparkapplications.sparkoperator.k8s.io "twice" already exists'
        assert status["details"] == {"name": "twice", "group": GROUP, "kind": PLURAL}

    @pytest.mark.parametrize(
        ("change", "field", "reason"),
        [
            ({"type": "Perl"}, "spec.type", "FieldValueNotSupported"),
            ({"driver": {"cores": 0}}, "spec.driver.cores", "FieldValueInvalid"),
            ({"driver": {"cores": "1"}}, "spec.driver.cores", "FieldValueTypeInvalid"),
            ({"arguments": [1]}, "spec.arguments[0]", "FieldValueTypeInvalid"),
            ({"sparkConf": {"spark.x": 1}}, "spec.sparkConf.spark.x", "FieldValueTypeInvalid"),
            ({"restartPolicy": {"type": "Sometimes"}}, "spec.restartPolicy.type", "FieldValueNotSupported"),
            ({"volumes": [{"emptyDir": {}}]}, "spec.volumes[0].name", "FieldValueRequired"),
        ],
    )
    def test_a_manifest_against_the_schema_is_422(
        self, cluster: Cluster, change: dict[str, Any], field: str, reason: str
    ) -> None:
        code, status = refusal(lambda: cluster.create(manifest("wrong", **change)))
        assert (code, status["reason"]) == (422, "Invalid")
        assert [(c["field"], c["reason"]) for c in status["details"]["causes"]] == [(field, reason)]

    def test_missing_fields_are_named_all_at_once(self, cluster: Cluster) -> None:
        body = manifest("holes")
        del body["spec"]["sparkVersion"], body["spec"]["executor"]
        _, status = refusal(lambda: cluster.create(body))
        assert {c["field"] for c in status["details"]["causes"]} == {"spec.sparkVersion", "spec.executor"}
        assert "spec.executor: Required value" in status["message"]

    def test_a_name_or_label_that_kubernetes_refuses_is_422(self, cluster: Cluster) -> None:
        assert (
            refusal(lambda: cluster.create(manifest("Big_Name")))[1]["details"]["causes"][0]["field"] == "metadata.name"
        )
        body = manifest("label")
        body["metadata"]["labels"] = {"job": "x" * 64}
        assert refusal(lambda: cluster.create(body))[0] == 422

    @pytest.mark.parametrize(
        ("name", "spec", "why"),
        [
            ("1digit", {}, "a DNS-1035 label must"),
            ("a" * 64, {}, "must be no more than 63 characters"),
            ("conf", {"sparkConf": {"spark.master": "local"}}, 'sparkConf key "spark.master" is not allowed'),
            ("space", {"sparkConf": {"spark.kubernetes.namespace": "x"}}, "must equal the application namespace"),
            ("nodes", {"nodeSelector": {}, "driver": {"nodeSelector": {}}}, "node selector cannot be defined at both"),
        ],
    )
    def test_what_the_operator_refuses_is_403_of_its_webhook(
        self, cluster: Cluster, name: str, spec: dict[str, Any], why: str
    ) -> None:
        code, status = refusal(lambda: cluster.create(manifest(name, **spec)))
        assert (code, status["reason"]) == (403, "Forbidden")
        webhook = 'admission webhook "validate-sparkapplication.sparkoperator.k8s.io" denied the request: '
        assert status["message"].startswith(webhook)
        assert why in status["message"]

    def test_unknown_fields_are_dropped_unless_strictness_is_asked_for(self, cluster: Cluster) -> None:
        assert "tpyo" not in cluster.create(manifest("pruned", tpyo=1))["spec"]
        code, status = refusal(lambda: cluster.create(manifest("strict", tpyo=1), field_validation="Strict"))
        assert (code, status["reason"]) == (400, "BadRequest")
        assert 'strict decoding error: unknown field "spec.tpyo"' in status["message"]
        template = {"spec": {"containers": [], "anything": True}}
        kept = cluster.create(manifest("templated", driver={"template": template}), field_validation="Strict")
        assert kept["spec"]["driver"]["template"] == template

    def test_null_is_the_same_as_absent(self, cluster: Cluster) -> None:
        body = manifest("nulls", arguments=None, driver={"cores": None, "env": None})
        body["metadata"]["annotations"] = None
        made = cluster.create(body)
        assert "arguments" not in made["spec"]
        assert made["spec"]["driver"] == {"cores": 1, "memory": "1g"}

    def test_a_dry_run_is_checked_and_not_stored(self, cluster: Cluster) -> None:
        assert cluster.create(manifest("dry"), dry_run="All")["metadata"]["uid"]
        assert refusal(lambda: cluster.get("dry"))[0] == 404
        assert refusal(lambda: cluster.create(manifest("dry", type="Perl"), dry_run="All"))[0] == 422

    def test_a_namespace_that_does_not_exist_is_404(self, cluster: Cluster) -> None:
        code, status = refusal(lambda: cluster.create(manifest("lost"), "nowhere"))
        assert (code, status["message"]) == (404, 'namespaces "nowhere" not found')


class TestReadAndChange:
    def test_a_missing_application_is_a_not_found_status(self, cluster: Cluster) -> None:
        code, status = refusal(lambda: cluster.get("absent"))
        assert code == 404
        assert status == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": 'sparkapplications.sparkoperator.k8s.io "absent" not found',
            "reason": "NotFound",
            "details": {"name": "absent", "group": GROUP, "kind": PLURAL},
            "code": 404,
        }

    def test_lists_are_selected_by_label_and_name_and_come_in_pages(self, cluster: Cluster) -> None:
        for name in ("list-a", "list-b", "list-c"):
            cluster.create(manifest(name))
        some = "job in (list-a, list-b, list-c)"
        first = cluster.find(label_selector=some, limit=2)
        rest = cluster.find(label_selector=some, limit=2, _continue=first["metadata"]["continue"])
        assert [i["metadata"]["name"] for i in first["items"] + rest["items"]] == ["list-a", "list-b", "list-c"]
        assert first["metadata"]["remainingItemCount"] == 1
        assert len(cluster.find(field_selector="metadata.name=list-b")["items"]) == 1
        assert len(cluster.find(label_selector="job=list-b,job!=list-a")["items"]) == 1
        assert refusal(lambda: cluster.find(field_selector="spec.type=Python"))[0] == 400

    def test_patches_change_spec_and_status_apart(self, cluster: Cluster) -> None:
        cluster.create(manifest("patched"))
        path = (GROUP, VERSION, UNWATCHED, PLURAL, "patched")
        spec = cluster.custom.patch_namespaced_custom_object(*path, {"spec": {"suspend": True}, "status": {"x": 1}})
        assert (spec["metadata"]["generation"], "status" in spec) == (2, False)
        status = {"status": {"driverInfo": {}, "applicationState": {"state": "RUNNING"}}, "spec": {"suspend": False}}
        done = cluster.custom.patch_namespaced_custom_object_status(*path, status)
        assert (done["spec"]["suspend"], states.state_of(done)) == (True, "RUNNING")
        steps = [{"op": "replace", "path": "/metadata/labels/job", "value": "other"}]
        kind = "application/json-patch+json"
        labeled = cluster.custom.patch_namespaced_custom_object(*path, steps, _content_type=kind)
        assert labeled["metadata"]["labels"] == {"job": "other"}
        assert refusal(lambda: cluster.custom.patch_namespaced_custom_object(*path, steps))[0] == 400

    def test_an_update_of_an_older_version_is_a_conflict(self, cluster: Cluster) -> None:
        old = cluster.create(manifest("raced"))
        path = (GROUP, VERSION, UNWATCHED, PLURAL, "raced")
        new = cluster.custom.replace_namespaced_custom_object(*path, {**old, "spec": {**old["spec"], "suspend": True}})
        assert int(new["metadata"]["resourceVersion"]) > int(old["metadata"]["resourceVersion"])
        code, status = refusal(lambda: cluster.custom.replace_namespaced_custom_object(*path, old))
        assert (code, status["reason"]) == (409, "Conflict")

    def test_background_deletion_answers_success_and_a_wrong_uid_is_a_conflict(self, cluster: Cluster) -> None:
        uid = cluster.create(manifest("gone"))["metadata"]["uid"]
        wrong = {"preconditions": {"uid": "another"}}
        assert refusal(lambda: cluster.delete("gone", body=wrong))[0] == 409
        answer = cluster.delete("gone")
        assert answer["status"] == "Success"
        assert answer["details"] == {"name": "gone", "group": GROUP, "kind": PLURAL, "uid": uid}
        assert refusal(lambda: cluster.delete("gone"))[0] == 404

    def test_a_watch_tells_what_happens_after_a_version(self, cluster: Cluster) -> None:
        since = cluster.find()["metadata"]["resourceVersion"]
        cluster.create(manifest("watched-a"))
        cluster.create(manifest("watched-b"))
        cluster.delete("watched-b")
        stream = kubernetes.watch.Watch().stream(cluster.find, resource_version=since, timeout_seconds=1)
        seen = [(event["type"], event["object"]["metadata"]["name"]) for event in stream]
        assert seen == [("ADDED", "watched-a"), ("ADDED", "watched-b"), ("DELETED", "watched-b")]

    def test_tables_have_the_columns_of_the_operator(self, cluster: Cluster) -> None:
        cluster.create(manifest("tabled"))
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
        path = f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}/tabled"
        table = cluster.http.get(path, headers={"Accept": accept}).json()
        columns = [column["name"] for column in table["columnDefinitions"]]
        assert columns == ["Name", "Suspend", "Status", "Attempts", "Start", "Finish", "Age"]
        assert table["rows"][0]["cells"][:3] == ["tabled", None, None]


class TestFaults:
    def test_refused_calls_look_like_a_real_server_and_end(self, cluster: Cluster) -> None:
        for status, reason in ((401, "Unauthorized"), (403, "Forbidden"), (500, "InternalError"), (503, "Service")):
            cluster.fault(calls={"status": status, "count": 1, "path": PLURAL})
            code, body = refusal(cluster.find)
            assert code == status
            assert body["reason"].startswith(reason)
            assert cluster.find()["kind"] == "SparkApplicationList"
        cluster.fault(calls={"status": 429, "path": PLURAL})
        busy = cluster.http.get(f"/apis/{GROUP}/{VERSION}/{PLURAL}")
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
        cluster.fault()

    def test_a_held_application_stays_new(self, cluster: Cluster) -> None:
        cluster.fault(hold=["new"], submission_failures=1)
        cluster.create(manifest("held", timeToLiveSeconds=3600, restartPolicy={"type": "Never"}), WATCHED)
        time.sleep(0.3)
        assert cluster.state("held") == states.NEW
        cluster.fault(hold=[])
        assert cluster.states_of("held", states.FAILED)[-1] == states.FAILED

    def test_failed_submissions_are_repeated_by_policy_and_then_fail(self, cluster: Cluster) -> None:
        cluster.fault(submission_failures=9)
        since = cluster.find(WATCHED)["metadata"]["resourceVersion"]
        cluster.create(manifest("refused", timeToLiveSeconds=1), WATCHED)
        seen = cluster.states_of("refused", states.FAILED, since)
        cluster.fault()
        assert seen == [states.NEW, states.SUBMISSION_FAILED, states.FAILED]
        status = cluster.get("refused", WATCHED)["status"]
        assert (status["submissionAttempts"], status.get("executionAttempts", 0)) == (2, 0)
        assert status["applicationState"]["errorMessage"].startswith(
            "failed to submit spark application: failed to run"
        )
        wait_for(lambda: "refused" not in [item["metadata"]["name"] for item in cluster.find(WATCHED)["items"]])

    def test_an_application_in_a_namespace_that_is_not_watched_stays_new(self, cluster: Cluster) -> None:
        cluster.create(manifest("ignored"))
        time.sleep(0.3)
        assert "status" not in cluster.get("ignored")


class TestDecisions:
    @pytest.mark.parametrize(
        ("policy", "state", "attempts", "retried"),
        [
            ({"type": "Never"}, states.FAILING, 1, False),
            ({"type": "OnFailure"}, states.FAILING, 1, False),
            ({"type": "OnFailure", "onFailureRetries": 1}, states.FAILING, 1, True),
            ({"type": "OnFailure", "onFailureRetries": 1}, states.FAILING, 2, False),
            ({"type": "OnFailure", "onFailureRetries": 9}, states.SUBMISSION_FAILED, 1, False),
            ({"type": "OnFailure", "onSubmissionFailureRetries": 2}, states.SUBMISSION_FAILED, 2, True),
            ({"type": "OnFailure", "onSubmissionFailureRetries": 2}, states.SUBMISSION_FAILED, 3, False),
            ({"type": "Always"}, states.SUCCEEDING, 5, True),
        ],
    )
    def test_retries_follow_the_restart_policy(
        self, policy: dict[str, Any], state: str, attempts: int, retried: bool
    ) -> None:
        status = {"applicationState": {"state": state}, "executionAttempts": attempts, "submissionAttempts": attempts}
        assert states.should_retry({"spec": {"restartPolicy": policy}, "status": status}) is retried

    def test_the_pause_grows_with_every_submission(self) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        status = {
            "applicationState": {"state": states.SUBMISSION_FAILED},
            "submissionAttempts": 3,
            "lastSubmissionAttemptTime": states.rfc3339(now - timedelta(seconds=4)),
        }
        app = {"spec": {"restartPolicy": {"onSubmissionFailureRetryInterval": 5}}, "status": status}
        assert states.seconds_until_retry(app, now) == 11

    def test_without_java_the_submission_fails_and_names_the_package(self, tmp_path: Path) -> None:
        with pytest.raises(SparkMissingError, match="openjdk-17-jre-headless"):
            find_java(tmp_path)
        app = manifest("no-java")
        app["metadata"] |= {"namespace": WATCHED, "uid": "u"}
        app["status"] = {"submissionID": "s"}
        with pytest.raises(SubmissionRefusedError, match="openjdk-17-jre-headless"):
            build_driver_pod(app, Machine(tmp_path, java_home=tmp_path))


class TestDrivers:
    def test_a_container_without_its_secret_waits_and_then_the_real_job_completes(self, cluster: Cluster) -> None:
        code, status = refusal(lambda: cluster.log("real"))
        assert (code, status["reason"]) == (400, "BadRequest")
        assert status["message"].endswith("is waiting to start: CreateContainerConfigError")
        assert cluster.state("real") == states.SUBMITTED
        write_secret(cluster.data_dir, "login", {"word": "sesame", "ALL": "everything"})
        seen = cluster.states_of("real", states.COMPLETED)
        assert seen[-3:] == [states.RUNNING, states.SUCCEEDING, states.COMPLETED]
        lines = cluster.log("real", follow=True).splitlines()
        assert "RESULT 328350 local[2,4] real ['a', 'b c']" in lines
        assert "ENV plain sesame everything False" in lines
        assert "without effect on one machine: spec.image" in lines[0]
        assert cluster.log("real", tail_lines=1).count("\n") == 1
        assert "sesame" not in json.dumps(
            cluster.client.sanitize_for_serialization(cluster.core.list_pod_for_all_namespaces())
        )

    def test_a_driver_that_fails_is_reported_with_its_exit_code_and_not_rerun(self, cluster: Cluster) -> None:
        cluster.states_of("failing", states.FAILED)
        status = cluster.get("failing", WATCHED)["status"]
        message = "driver container failed with ExitCode: 3, Reason: Error"
        assert status["applicationState"] == {"state": "FAILED", "errorMessage": message}
        assert (status["executionAttempts"], status["submissionAttempts"]) == (1, 1)
        assert status["terminationTime"]
        assert "about to fail" in cluster.log("failing", container=states.DRIVER_CONTAINER)
        assert refusal(lambda: cluster.log("failing", container="sidecar"))[0] == 400

    def test_an_application_whose_driver_pod_is_deleted_fails(self, cluster: Cluster) -> None:
        pids = sleeping_pids(cluster, "podless")
        cluster.core.delete_namespaced_pod("podless-driver", WATCHED, grace_period_seconds=0)
        cluster.states_of("podless", states.FAILED)
        state = cluster.get("podless", WATCHED)["status"]["applicationState"]
        assert state == {"state": "FAILED", "errorMessage": "driver pod not found"}
        assert not any(lives(pid) for pid in pids)

    def test_foreground_deletion_ends_every_process_before_the_object_goes(self, cluster: Cluster) -> None:
        pids = sleeping_pids(cluster, "sleeping")
        assert all(lives(pid) for pid in pids)
        deleted = cluster.delete("sleeping", WATCHED, propagation_policy="Foreground")
        assert deleted["metadata"]["finalizers"] == ["foregroundDeletion"]
        wait_for(lambda: "sleeping" not in [item["metadata"]["name"] for item in cluster.find(WATCHED)["items"]])
        assert not any(lives(pid) for pid in pids)
        assert refusal(lambda: cluster.log("sleeping"))[0] == 404


class TestRestart:
    def test_objects_survive_the_server_and_drivers_do_not(self, tmp_path: Path, mains: Path) -> None:
        cluster = Cluster(tmp_path / "data", free_port())
        try:
            cluster.create(manifest("kept"))
            cluster.create(manifest("lost", mains / "sleeping.py"), WATCHED)
            pids = sleeping_pids(cluster, "lost")
            version = cluster.find()["metadata"]["resourceVersion"]
            cluster.server.kill()
            wait_for(lambda: not any(lives(pid) for pid in pids))
            cluster.server = cluster.start()
            assert cluster.get("kept")["metadata"]["labels"] == {"job": "kept"}
            cluster.states_of("lost", states.FAILED)
            state = cluster.get("lost", WATCHED)["status"]["applicationState"]
            assert state == {"state": "FAILED", "errorMessage": "driver pod not found"}
            assert int(cluster.find()["metadata"]["resourceVersion"]) > int(version)
            stale = cluster.find(watch=True, resource_version="2", _preload_content=False).data
            event = json.loads(stale)
            assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        finally:
            cluster.close()

    def test_a_stopped_server_ends_watches_and_leaves_with_code_0(self, tmp_path: Path) -> None:
        cluster = Cluster(tmp_path / "data", free_port())
        try:
            with cluster.http.stream("GET", f"/apis/{GROUP}/{VERSION}/{PLURAL}?watch=true") as watch:
                assert cluster.server.stop() == 0
                assert watch.read() == b""
            assert "Traceback" not in cluster.server.log.read_text()
        finally:
            cluster.close()
