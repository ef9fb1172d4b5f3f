"""The chart's Role allows exactly what the client of Kubernetes calls, and nobody else gets a token.

Every method of the client is called against a server that records the requests; verbs and resources follow from method
and path, as Kubernetes itself reads them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from ingestion_engine.submission.kubernetes import permissions
from ingestion_engine.submission.kubernetes.api import KubernetesApi
from ingestion_engine.submission.kubernetes.permissions import PERMISSIONS
from ingestion_engine.submission.kubernetes.pods import Pod
from support.answering import running
from support.charts.manifests import find_pods, of_kind
from support.charts.rendering import EXAMPLES, Object, read_values, render

NAMESPACE = "spark-jobs"
OBJECT = {"kind": "SparkApplication", "metadata": {"name": "a", "labels": {}}, "spec": {}, "status": {}}
POD = Pod(name="a-driver", uid="1", created_at=None, status={})

Granted = set[tuple[str, str, str]]
"""Group, resource (with subresource) and verb."""

CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "get_version": lambda api: api.get_version(),
    "create_application": lambda api: api.create_application(OBJECT),
    "get_application": lambda api: api.get_application("a"),
    "delete_application": lambda api: api.delete_application("a"),
    "read_driver_log": lambda api: api.read_driver_log("a-driver"),
    "get_pod": lambda api: api.get_pod("a-driver"),
    "list_warnings": lambda api: api.list_warnings(POD),
    "is_allowed": lambda api: api.is_allowed(PERMISSIONS[0]),
    "has_resource": lambda api: api.has_resource(),
    "try_application": lambda api: api.try_application(OBJECT),
}
"""Every method of the client that makes requests."""

EVERYBODY = {("authorization.k8s.io", "selfsubjectaccessreviews", "create")}
"""What the ClusterRole ``system:basic-user`` allows every account by default."""


def answer(path: str) -> Any:
    """What the server says: enough for the client to go on."""
    if path == "/version":
        fields = ("major", "minor", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform")
        return {"gitVersion": "v1.34.0", **dict.fromkeys(fields, "")}
    if path.endswith("/events"):
        return {"kind": "EventList", "items": []}
    if "/pods/" in path:
        return {"kind": "Pod", "metadata": {"name": "a-driver", "uid": "1"}, "status": {}}
    if "selfsubjectaccessreviews" in path:
        return {"kind": "SelfSubjectAccessReview", "spec": {}, "status": {"allowed": True}}
    if path.endswith(f"/{permissions.VERSION}"):
        return {
            "kind": "APIResourceList",
            "groupVersion": f"{permissions.GROUP}/{permissions.VERSION}",
            "resources": [],
        }
    return OBJECT


@contextmanager
def recording() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that notes method and path of every request; its URL and the notes."""
    requests: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append((self.command, self.path))
            body = orjson.dumps(answer(self.path.partition("?")[0].rstrip("/")))
            self.send_response(201 if self.command == "POST" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = do_PATCH = do_POST  # noqa: N815 - the library's own names

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with running(Handler) as url:
        yield url, requests


def read_request(method: str, target: str) -> tuple[str, str, str] | None:
    """Group, resource and verb of a request, as Kubernetes authorizes it; None for a path without a resource."""
    path, _, query = target.partition("?")
    found = re.fullmatch(
        r"/(?:api/[^/]+|apis/([^/]+)/[^/]+)(?:/namespaces/([^/]+))?(?:/([^/]+)(/[^/]+)?(/[^/]+)?)?", path
    )
    if found is None or found.group(3) is None:
        return None
    group, namespace, resource, name, part = found.groups()
    assert namespace == NAMESPACE or resource == "selfsubjectaccessreviews", f"{path} is not in the namespace"
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch"}
    verbs |= {"GET": "get", "DELETE": "delete"} if name else {"GET": "list", "DELETE": "deletecollection"}
    verb = "watch" if "watch=" in query else verbs[method]
    return group or "", resource + (part or ""), verb


async def record_calls(tmp_path: Path) -> tuple[Granted, list[tuple[str, str]]]:
    """What the client's methods need, and the requests on paths without a resource."""
    with recording() as (url, requests):
        kubeconfig = tmp_path / "kubeconfig"
        content = {
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        }
        kubeconfig.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "x"} | content))
        api = KubernetesApi(NAMESPACE, kubeconfig=kubeconfig)
        for name in find_methods():
            before = len(requests)
            await CALLS[name](api)
            assert len(requests) > before, f"{name} makes no request"
        await api.close()
    read = [(read_request(method, target), (method, target)) for method, target in requests]
    return {one for one, _ in read if one is not None}, [request for one, request in read if one is None]


def find_methods() -> list[str]:
    """The names of the client's public methods that may make requests."""
    members = inspect.getmembers(KubernetesApi, inspect.iscoroutinefunction)
    return [name for name, _ in members if not name.startswith("_") and name != "close"]


def find_granted(objects: list[Object], account: str) -> dict[str, Granted]:
    """What the Roles of a release grant an account, by namespace."""
    granted: dict[str, Granted] = {}
    for binding in of_kind(objects, "RoleBinding"):
        if account not in {subject["name"] for subject in binding["subjects"]}:
            continue
        namespace = binding["metadata"]["namespace"]
        roles = [one for one in of_kind(objects, "Role") if one["metadata"]["name"] == binding["roleRef"]["name"]]
        for rule in (rule for role in roles if role["metadata"]["namespace"] == namespace for rule in role["rules"]):
            assert set(rule) == {"apiGroups", "resources", "verbs"}
            granted.setdefault(namespace, set()).update(
                (group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            )
    return granted


def test_every_method_of_the_client_is_called() -> None:
    assert set(find_methods()) == set(CALLS)


async def test_the_client_calls_what_the_permissions_name(tmp_path: Path) -> None:
    called, without_resource = await record_calls(tmp_path)

    assert called - EVERYBODY == {(one.group, one.resource, one.verb) for one in PERMISSIONS}
    # Discovery, which `system:discovery` and `system:public-info-viewer` allow every account.
    discovery = {"/version", f"/apis/{permissions.GROUP}/{permissions.VERSION}"}
    assert {path.rstrip("/") for _, path in without_resource} <= discovery
    assert {method for method, _ in without_resource} == {"GET"}


async def test_the_role_of_the_service_is_what_it_calls(tmp_path: Path) -> None:
    called, _ = await record_calls(tmp_path)
    objects = render(read_values(find_example("spark")) | spark_in(NAMESPACE))

    (account,) = {
        pod.spec["serviceAccountName"]
        for pod in find_pods(objects)
        if pod.labels.get("app.kubernetes.io/component") in {"api", "dispatcher"}
    }
    assert find_granted(objects, account) == {NAMESPACE: called - EVERYBODY}
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []


def test_only_the_service_gets_a_token() -> None:
    objects = render(read_values(find_example("spark")) | spark_in(NAMESPACE))

    holders = {
        pod.labels["app.kubernetes.io/component"]
        for pod in find_pods(objects)
        if pod.spec["automountServiceAccountToken"]
    }
    assert {"api", "dispatcher"} <= holders <= {"api", "dispatcher", "doctor"}


def test_nobody_gets_a_token_without_spark() -> None:
    objects = render(read_values(find_example("minimal-ray")))

    assert of_kind(objects, "Role", "RoleBinding") == []
    assert not any(pod.spec["automountServiceAccountToken"] for pod in find_pods(objects))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_accounts_are_bound_in_the_namespace_of_the_applications_only(path: Path) -> None:
    values = read_values(path)
    objects = render(values)

    jobs = values.get("spark", {}).get("namespace") or "ingest"
    assert {each["metadata"]["namespace"] for each in of_kind(objects, "Role", "RoleBinding")} <= {jobs}


def find_example(name: str) -> Path:
    """A value file of the chart by its name."""
    return next(path for path in EXAMPLES if path.stem == name)


def spark_in(namespace: str) -> dict[str, Any]:
    """Values of Spark in a namespace of its own."""
    return {"spark": {"enabled": True, "namespace": namespace}}
