"""The embedded Kubernetes API for SparkApplications, by the official client: its answers and refusals."""

import ssl
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import pytest

from ingestion_devstack.kubernetes import states
from support.kubernetes_cluster import GROUP, PLURAL, UNWATCHED, VERSION, WATCHED, Cluster, manifest, refusal, wait_for

APPLICATIONS = f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}"


class TestAccess:
    @pytest.mark.parametrize(
        ("authorization", "code", "reason"),
        [("Bearer wrong", 401, "Unauthorized"), (None, 403, "Forbidden"), ("Basic eDp5", 403, "Forbidden")],
    )
    def test_a_wrong_token_is_unauthorized_and_none_is_anonymous(
        self, cluster: Cluster, authorization: str | None, code: int, reason: str
    ) -> None:
        trust = ssl.create_default_context(cafile=cluster.data_dir / "tls/ca.crt")
        headers = {} if authorization is None else {"Authorization": authorization}
        with httpx.Client(verify=trust, headers=headers) as client:
            listed = client.get(f"{cluster.server.url}{APPLICATIONS}")
            found = client.get(f"{cluster.server.url}/apis")
        assert [(answer.status_code, answer.json()["reason"]) for answer in (listed, found)] == [(code, reason)] * 2
        if code == 403:
            assert listed.json()["message"] == (
                f'{PLURAL}.{GROUP} is forbidden: User "system:anonymous" cannot list resource "{PLURAL}" in API group '
                f'"{GROUP}" in the namespace "default"'
            )
            assert found.json()["message"] == 'forbidden: User "system:anonymous" cannot get path "/apis"'

    def test_version_and_discovery_are_what_clients_read_first(self, cluster: Cluster) -> None:
        assert kubernetes.client.VersionApi(cluster.client).get_code().major == "1"
        apis = kubernetes.client.ApisApi(cluster.client).get_api_versions()
        assert [group.name for group in apis.groups] == [GROUP]
        listed = cluster.http.get(f"/apis/{GROUP}/{VERSION}").json()["resources"]
        assert [(entry["name"], entry["kind"]) for entry in listed] == [(PLURAL, "SparkApplication")]
        core = kubernetes.client.CoreV1Api(cluster.client).get_api_resources().resources
        assert [entry.name for entry in core] == ["pods", "pods/log", "events"]

    def test_openapi_tells_kubectl_that_a_server_side_dry_run_is_possible(self, cluster: Cluster) -> None:
        (root,) = cluster.http.get("/openapi/v3").json()["paths"].values()
        (path,) = cluster.http.get(root["serverRelativeURL"]).json()["paths"].values()
        assert {"dryRun", "fieldValidation"} <= {parameter["name"] for parameter in path["patch"]["parameters"]}
        kind = {"group": GROUP, "version": VERSION, "kind": "SparkApplication"}
        assert path["patch"]["x-kubernetes-group-version-kind"] == kind

    def test_kubeconfig_and_key_are_private(self, cluster: Cluster) -> None:
        for name in ("kubeconfig", "tls/server.key"):
            assert (cluster.data_dir / name).stat().st_mode & 0o777 == 0o600

    def test_without_a_token_the_server_does_not_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ingestion_devstack.kubernetes.server import main

        monkeypatch.delenv("KUBE_TOKEN", raising=False)
        assert main(["--data-dir", str(tmp_path / "none"), "--port", "0", "--namespace", WATCHED]) == 2


class TestReviewsOfAccess:
    """As an API server of Kubernetes 1.34 with role-based access control was seen to answer."""

    PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    def ask(self, cluster: Cluster, verb: str, resource: str, subresource: str | None = None) -> Any:
        attributes = kubernetes.client.V1ResourceAttributes(
            namespace=WATCHED, verb=verb, group="", resource=resource, subresource=subresource
        )
        spec = kubernetes.client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        api = kubernetes.client.AuthorizationV1Api(cluster.client)
        review = api.create_self_subject_access_review(kubernetes.client.V1SelfSubjectAccessReview(spec=spec))
        return review.status.allowed

    def test_the_account_may_do_everything_but_what_is_denied(self, cluster: Cluster) -> None:
        assert self.ask(cluster, "get", "pods", "log") is True
        cluster.fault(denied=["get pods/log", "get sparkapplications"])
        try:
            assert self.ask(cluster, "get", "pods", "log") is False
            assert self.ask(cluster, "get", "pods") is True
            code, _ = refusal(lambda: cluster.get("some", WATCHED))
            assert code == 403
        finally:
            cluster.fault()

    @pytest.mark.parametrize(
        ("body", "code", "words"),
        [
            ({"spec": {}}, 422, "exactly one of nonResourceAttributes or resourceAttributes must be specified"),
            ({"apiVersion": "v1", "kind": "Foo", "spec": {}}, 400, 'no kind "Foo" is registered for version "v1"'),
            ({"spec": {"nonResourceAttributes": {"path": "/version", "verb": "get"}}}, 501, "nonResourceAttributes"),
        ],
    )
    def test_what_is_no_review_of_a_resource_is_refused(
        self, cluster: Cluster, body: dict[str, Any], code: int, words: str
    ) -> None:
        answer = cluster.http.post(self.PATH, json=body)
        assert (answer.status_code, answer.json()["kind"]) == (code, "Status")
        assert words in answer.json()["message"]

    def test_reviews_cannot_be_listed(self, cluster: Cluster) -> None:
        assert cluster.http.get(self.PATH).status_code == 405


class TestRefusals:
    """What is not served is refused in the form of a real server."""

    @pytest.mark.parametrize("path", ["/apis/batch/v1/jobs", "/api/v1/namespaces/default/secrets", "/openapi/v2"])
    def test_an_unknown_path_is_404(self, cluster: Cluster, path: str) -> None:
        answer = cluster.http.get(path)
        assert (answer.status_code, answer.text) == (404, "404 page not found\n")

    @pytest.mark.parametrize(
        ("method", "path", "verb"),
        [
            ("DELETE", "", "deletecollection"),
            ("PATCH", "/some", "patch"),
            ("PUT", "/some", "update"),
            ("GET", "?watch=true", "watch"),
        ],
    )
    def test_a_verb_that_is_not_served_is_405(self, cluster: Cluster, method: str, path: str, verb: str) -> None:
        answer = cluster.http.request(method, f"{APPLICATIONS}{path}")
        assert (answer.status_code, answer.json()["reason"]) == (405, "MethodNotAllowed")
        assert answer.json()["message"] == f'{verb} is not supported on resources of kind "{PLURAL}.{GROUP}"'

    @pytest.mark.parametrize(
        ("path", "named"),
        [
            (f"{APPLICATIONS}?labelSelector=a%3Db", "the query parameter labelSelector=a=b"),
            ("/api/v1/namespaces/default/events?fieldSelector=reason%3DFailed", "the field selector 'reason=Failed'"),
            (f"/api/v1/namespaces/{WATCHED}/pods/some/log?follow=true", "the query parameter follow=true"),
        ],
    )
    def test_a_parameter_that_is_not_served_is_501(self, cluster: Cluster, path: str, named: str) -> None:
        answer = cluster.http.get(path)
        assert (answer.status_code, answer.json()["reason"]) == (501, "NotImplemented")
        assert named in answer.json()["message"]


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
        ("change", "why"),
        [
            ({"driver": {"cores": "1"}}, "cannot unmarshal string into Go struct field DriverSpec.cores of type int32"),
            ({"arguments": [1]}, "cannot unmarshal number into Go struct field SparkApplicationSpec.arguments of type"),
            ({"volumes": 3}, "cannot unmarshal"),
            ({"executor": []}, "cannot unmarshal array into Go struct field SparkApplicationSpec.spec.executor"),
        ],
    )
    def test_a_field_of_the_wrong_type_is_400_of_the_mutating_webhook(
        self, cluster: Cluster, change: dict[str, Any], why: str
    ) -> None:
        code, status = refusal(lambda: cluster.create(manifest("wrong", **change)))
        assert (code, "reason" in status, status["kind"]) == (400, False, "Status")
        webhook = "mutate-sparkoperator-k8s-io-v1beta2-sparkapplication.sparkoperator.k8s.io"
        assert status["message"].startswith(f'admission webhook "{webhook}" denied the request: json: {why}')

    def test_what_the_mutating_webhook_completes_is_accepted(self, cluster: Cluster) -> None:
        body = manifest("completed", volumes=[{"emptyDir": {}}])
        del body["spec"]["sparkVersion"], body["spec"]["executor"], body["spec"]["type"]
        made = cluster.create(body, dry_run="All")["spec"]
        assert made["sparkVersion"] == ""
        assert made["executor"] == {"cores": 1, "memory": "1g", "instances": 1}
        assert made["type"] == "Scala"
        assert made["volumes"] == [{"emptyDir": {}, "name": ""}]

    @pytest.mark.parametrize(
        ("name", "change", "cause"),
        [
            ("fine", {"mainApplicationFile": None}, ("spec.mainApplicationFile", "FieldValueTypeInvalid")),
            ("fine", {"type": "Cobol"}, ("spec.type", "FieldValueNotSupported")),
            ("fine", {"restartPolicy": {"type": "Sometimes"}}, ("spec.restartPolicy.type", "FieldValueNotSupported")),
            ("fine", {"driver": {"cores": 0}}, ("spec.driver.cores", "FieldValueInvalid")),
            ("Big_Name", {}, ("metadata.name", "FieldValueInvalid")),
        ],
    )
    def test_what_the_schema_refuses_is_422(
        self, cluster: Cluster, name: str, change: dict[str, Any], cause: tuple[str, str]
    ) -> None:
        code, status = refusal(lambda: cluster.create(manifest(name, **change)))
        assert (code, status["reason"]) == (422, "Invalid")
        assert [(c["field"], c["reason"]) for c in status["details"]["causes"]] == [cause]

    @pytest.mark.parametrize(
        ("name", "spec", "why"),
        [
            ("1digit", {}, "a DNS-1035 label must"),
            ("a" * 64, {}, "must be no more than 63 characters"),
            ("conf", {"sparkConf": {"spark.master": "local"}}, 'sparkConf key "spark.master" is not allowed'),
            ("space", {"sparkConf": {"spark.kubernetes.namespace": "x"}}, "must equal the application namespace"),
            (
                "old",
                {"sparkVersion": "2.4.8", "driver": {"template": {"spec": {"containers": []}}}},
                "requires Spark version 3.0.0",
            ),
            ("nodes", {"nodeSelector": {"a": "b"}, "driver": {"nodeSelector": {"a": "c"}}}, "node selector cannot be"),
        ],
    )
    def test_what_the_operator_refuses_is_403_of_its_webhook(
        self, cluster: Cluster, name: str, spec: dict[str, Any], why: str
    ) -> None:
        code, status = refusal(lambda: cluster.create(manifest(name, **spec)))
        assert (code, status["reason"]) == (403, "Forbidden")
        webhook = "validate-sparkoperator-k8s-io-v1beta2-sparkapplication.sparkoperator.k8s.io"
        assert status["message"].startswith(f'admission webhook "{webhook}" denied the request: ')
        assert why in status["message"]

    def test_unknown_fields_are_dropped_unless_validation_is_strict(self, cluster: Cluster) -> None:
        volumes = [{"name": "scratch", "emptyDir": {"sizeLimit": "10Gi", "size": 1}}]
        made = cluster.create(manifest("pruned", tpyo=1, volumes=volumes))["spec"]
        assert "tpyo" not in made
        assert made["volumes"] == [{"name": "scratch", "emptyDir": {"sizeLimit": "10Gi"}}]
        code, status = refusal(lambda: cluster.create(manifest("strict", tpyo=1), field_validation="Strict"))
        assert (code, status["reason"]) == (400, "BadRequest")
        assert 'strict decoding error: unknown field "spec.tpyo"' in status["message"]

    def test_a_dry_run_is_checked_and_not_stored(self, cluster: Cluster) -> None:
        assert cluster.create(manifest("dry"), dry_run="All")["metadata"]["uid"]
        assert refusal(lambda: cluster.get("dry"))[0] == 404
        assert refusal(lambda: cluster.create(manifest("dry", arguments=[1]), dry_run="All"))[0] == 400

    def test_a_namespace_that_does_not_exist_is_404(self, cluster: Cluster) -> None:
        code, status = refusal(lambda: cluster.create(manifest("lost"), "nowhere"))
        assert (code, status["message"]) == (404, 'namespaces "nowhere" not found')


class TestRead:
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

    def test_lists_are_whole_and_ordered_by_name(self, cluster: Cluster) -> None:
        for name in ("list-b", "list-a"):
            cluster.create(manifest(name))
        listed = cluster.find(limit=1)
        names = [item["metadata"]["name"] for item in listed["items"]]
        assert [name for name in names if name.startswith("list-")] == ["list-a", "list-b"]
        everywhere = cluster.custom.list_cluster_custom_object(GROUP, VERSION, PLURAL)
        assert {item["metadata"]["namespace"] for item in everywhere["items"]} == {UNWATCHED, WATCHED}

    def test_tables_have_the_columns_of_the_operator(self, cluster: Cluster) -> None:
        cluster.create(manifest("tabled"))
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
        for path in (APPLICATIONS, f"{APPLICATIONS}/tabled"):
            table = cluster.http.get(path, headers={"Accept": accept}).json()
            columns = [column["name"] for column in table["columnDefinitions"]]
            assert columns == ["Name", "Suspend", "Status", "Attempts", "Start", "Finish", "Age"]
            (row,) = [row["cells"] for row in table["rows"] if row["cells"][0] == "tabled"]
            assert row[1:6] == [None] * 5
            assert row[6].endswith("s")

    def test_background_deletion_removes_the_application_at_once(self, cluster: Cluster) -> None:
        uid = cluster.create(manifest("gone"))["metadata"]["uid"]
        answer = cluster.delete("gone", body={"propagationPolicy": "Background"})
        assert answer["status"] == "Success"
        assert answer["details"] == {"name": "gone", "group": GROUP, "kind": PLURAL, "uid": uid}
        assert refusal(lambda: cluster.delete("gone"))[0] == 404

    @pytest.mark.parametrize("options", [{"preconditions": {"uid": "other"}}, {"propagationPolicy": "Orphan"}])
    def test_other_options_of_deletion_are_refused(self, cluster: Cluster, options: dict[str, Any]) -> None:
        name = f"kept-{next(iter(options)).lower()}"
        cluster.create(manifest(name))
        assert refusal(lambda: cluster.delete(name, body=options))[0] == 501
        assert cluster.get(name)


class TestFaults:
    def test_calls_fail_as_a_real_server_fails(self, cluster: Cluster) -> None:
        for status, reason in ((401, "Unauthorized"), (403, "Forbidden"), (500, "InternalError")):
            cluster.fault(calls={"status": status, "count": 1, "path": PLURAL})
            code, body = refusal(cluster.find)
            assert code == status
            assert body["reason"] == reason
            assert cluster.find()["kind"] == "SparkApplicationList"
        cluster.fault(calls={"status": 429, "path": PLURAL})
        busy = cluster.http.get(APPLICATIONS)
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
        cluster.fault()

    @pytest.mark.parametrize("fault", [{"call": {}}, {"calls": {"status": 99}}, {"hold": ["new"]}, [1]])
    def test_a_misspelt_fault_is_refused(self, cluster: Cluster, fault: object) -> None:
        assert cluster.http.post("/_faults", json=fault).status_code == 400

    def test_failed_submissions_are_repeated_by_policy_and_then_fail(self, cluster: Cluster) -> None:
        cluster.create(manifest("refused", mainApplicationFile="https://127.0.0.1/main.py"), WATCHED)
        status = cluster.reach("refused", states.FAILED)
        assert cluster.events("refused") == ["SparkApplicationSubmissionFailed", "SparkApplicationFailed"]
        assert (status["submissionAttempts"], status.get("executionAttempts", 0)) == (2, 0)
        message = "failed to submit spark application: failed to run spark-submit: failed to run spark-submit: "
        error = status["applicationState"]["errorMessage"]
        assert error.startswith(message)
        assert 'Exception in thread "main" org.apache.spark.SparkException: the stand-in runs files' in error
        assert error.splitlines()[-1].startswith("\tat ")

    def test_a_held_submission_leaves_the_state_empty(self, cluster: Cluster) -> None:
        cluster.fault(hold=["submissions"])
        cluster.create(manifest("slow", mainApplicationFile="https://127.0.0.1/main.py"), WATCHED)
        cluster.create(manifest("unwatched"))
        assert "status" not in cluster.get("slow", WATCHED)
        cluster.fault()
        cluster.reach("slow", states.FAILED)

    @pytest.mark.parametrize(("held", "event"), [("nodes", "FailedScheduling"), ("images", "Failed")])
    def test_a_held_pod_has_the_status_and_the_event_of_a_real_one(
        self, cluster: Cluster, held: str, event: str
    ) -> None:
        name = f"held-{held}"
        cluster.fault(hold=[held])
        cluster.create(manifest(name), WATCHED)
        cluster.reach(name, states.SUBMITTED)
        pod = wait_for(lambda: held_pod(cluster, name))
        selector = f"involvedObject.uid={pod.metadata.uid},type=Warning"
        assert [e.reason for e in cluster.core.list_namespaced_event(WATCHED, field_selector=selector).items] == [event]
        if held == "nodes":
            assert pod.status.conditions[0].reason == "Unschedulable"
            assert cluster.http.get(f"/api/v1/namespaces/{WATCHED}/pods/{name}-driver/log").status_code == 204
        else:
            assert pod.status.container_statuses[0].state.waiting.reason == "ErrImagePull"
        cluster.delete(name, WATCHED)
        cluster.fault()

    def test_an_ended_application_is_removed_after_its_time_to_live(self, cluster: Cluster) -> None:
        body = manifest("expired", timeToLiveSeconds=1, mainApplicationFile="https://127.0.0.1/main.py")
        cluster.create(body, WATCHED)
        wait_for(lambda: "expired" not in [item["metadata"]["name"] for item in cluster.find(WATCHED)["items"]])

    def test_an_application_in_a_namespace_that_is_not_watched_stays_new(self, cluster: Cluster) -> None:
        cluster.create(manifest("ignored"))
        cluster.create(manifest("processed", mainApplicationFile="https://127.0.0.1/main.py"), WATCHED)
        cluster.reach("processed", states.FAILED)
        assert "status" not in cluster.get("ignored")


def held_pod(cluster: Cluster, name: str) -> Any:
    """The driver's pod, once something keeps it; None before."""
    pod = cluster.core.read_namespaced_pod(f"{name}-driver", WATCHED)
    waiting = [status.state.waiting.reason for status in pod.status.container_statuses or []]
    return pod if pod.status.conditions or waiting != ["ContainerCreating"] else None
