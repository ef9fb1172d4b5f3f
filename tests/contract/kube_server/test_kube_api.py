"""The Kubernetes API for SparkApplications, by the official client: what the server answers."""

import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import pytest

from ingestion_devstack.kubernetes import states
from support.kube_cluster import GROUP, PLURAL, UNWATCHED, VERSION, WATCHED, Cluster, manifest, refusal, wait_for


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
        from ingestion_devstack.kubernetes.server import main

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
