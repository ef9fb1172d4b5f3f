"""The embedded Spark operator: what it decides, what becomes of drivers, and what survives a restart."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion_devstack.kubernetes import states
from ingestion_devstack.kubernetes.config import write_secret
from ingestion_devstack.kubernetes.find_spark import SparkMissingError, find_java
from ingestion_devstack.kubernetes.submit import DRIVER_CONTAINER, Machine, SubmissionRefusedError, build_driver_pod
from ingestion_engine.runtime.timestamps import format_seconds
from ingestion_engine.submission.causes import find_cause
from support.kubernetes_cluster import (
    WATCHED,
    Cluster,
    lives,
    manifest,
    refusal,
    sleeping_pids,
    wait_for,
)
from support.servers import free_port


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
            "lastSubmissionAttemptTime": format_seconds(now - timedelta(seconds=4)),
        }
        app = {"spec": {"restartPolicy": {"onSubmissionFailureRetryInterval": 5}}, "status": status}
        assert states.seconds_until_retry(app, now) == 11

    @pytest.mark.parametrize(
        ("change", "cause"),
        [
            (
                {"driver": {"memory": "lots"}},
                "org.apache.spark.SparkException: Driver memory must be a positive number",
            ),
            (
                {"driver": {"memory": "1g", "serviceAccount": "nobody"}},
                (
                    'io.fabric8.kubernetes.client.KubernetesClientException: pods "refused-driver" is forbidden: '
                    'error looking up service account spark/nobody: serviceaccount "nobody" not found'
                ),
            ),
        ],
    )
    def test_a_refused_submission_has_the_trace_of_a_real_one(
        self, tmp_path: Path, change: dict[str, Any], cause: str
    ) -> None:
        app = manifest("refused", **change)
        app["metadata"] |= {"namespace": WATCHED, "uid": "u"}
        app["status"] = {"submissionID": "s"}
        with pytest.raises(SubmissionRefusedError) as caught:
            build_driver_pod(app, Machine(tmp_path))
        trace = caught.value.trace()
        assert trace.splitlines()[-1].startswith("\tat ")
        assert find_cause(trace) == cause

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
        write_secret(cluster.data_dir, "login", {"FROM_SECRET": "everything"})
        cluster.reach("real", states.COMPLETED)
        submitted, *others = cluster.events("real")
        assert submitted == "SparkApplicationSubmitted"
        assert others == ["SparkDriverRunning", "SparkDriverCompleted", "SparkApplicationCompleted"]
        lines = cluster.log("real").splitlines()
        assert "RESULT 328350 local[2,4] real ['a', 'b c']" in lines
        assert "ENV plain everything False" in lines
        assert "no effect on one machine: spec.image" in lines[0]
        assert cluster.log("real", tail_lines=1).count("\n") == 1
        assert "everything" not in json.dumps(
            cluster.client.sanitize_for_serialization(cluster.core.list_pod_for_all_namespaces())
        )

    def test_a_driver_that_fails_is_reported_with_its_exit_code_and_not_rerun(self, cluster: Cluster) -> None:
        status = cluster.reach("failing", states.FAILED)
        message = "driver container failed with ExitCode: 3, Reason: Error"
        assert status["applicationState"] == {"state": "FAILED", "errorMessage": message}
        assert (status["executionAttempts"], status["submissionAttempts"]) == (1, 1)
        assert status["terminationTime"]
        assert "about to fail" in cluster.log("failing", container=DRIVER_CONTAINER)
        assert refusal(lambda: cluster.log("failing", container="sidecar"))[0] == 400

    def test_an_application_whose_driver_pod_is_deleted_fails(self, cluster: Cluster) -> None:
        pids = sleeping_pids(cluster, "podless")
        cluster.core.delete_namespaced_pod("podless-driver", WATCHED, grace_period_seconds=0)
        state = cluster.reach("podless", states.FAILED)["applicationState"]
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
            state = cluster.reach("lost", states.FAILED)["applicationState"]
            assert state == {"state": "FAILED", "errorMessage": "driver pod not found"}
            assert int(cluster.find()["metadata"]["resourceVersion"]) > int(version)
        finally:
            cluster.close()
