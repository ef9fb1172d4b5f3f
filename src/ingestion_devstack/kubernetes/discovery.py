"""Discovery: version, groups and resources of the API server, and the OpenAPI part that kubectl checks.

Forms follow Kubernetes 1.32 (k8s.io/apimachinery `pkg/apis/meta/v1/types.go`). `kubectl apply --dry-run=server` and
server-side validation read one fact from OpenAPI v3: whether the PATCH operation of the kind knows the parameters
`dryRun` and `fieldValidation` (k8s.io/cli-runtime `pkg/resource/query_param_verifier_v3.go`). The document holds that
operation and no schemas, so `kubectl explain` has nothing to show. A PATCH itself is refused with 405.
"""

from __future__ import annotations

from typing import Any, Final

from ingestion_devstack.kubernetes.errors import Resource
from ingestion_devstack.kubernetes.http import RESOURCES, SPARK_APPLICATIONS

VERSION: Final = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+ingest-stand-in",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
"""The imitated release; kubectl may be one minor release away."""

_GROUP_PATH: Final = f"apis/{SPARK_APPLICATIONS.api_version}"


def discover(path: str) -> dict[str, Any] | None:
    """Return the discovery document at a path; None when there is none."""
    version = {"groupVersion": SPARK_APPLICATIONS.api_version, "version": SPARK_APPLICATIONS.version}
    group = {"name": SPARK_APPLICATIONS.group, "versions": [version], "preferredVersion": version}
    documents: dict[str, Any] = {
        "/version": VERSION,
        "/api": {
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}],
        },
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
        f"/apis/{SPARK_APPLICATIONS.group}": {"kind": "APIGroup", "apiVersion": "v1", **group},
        "/api/v1": _resource_list("v1"),
        f"/{_GROUP_PATH}": _resource_list(SPARK_APPLICATIONS.api_version),
        "/openapi/v3": {"paths": {_GROUP_PATH: {"serverRelativeURL": f"/openapi/v3/{_GROUP_PATH}"}}},
        f"/openapi/v3/{_GROUP_PATH}": _openapi(),
    }
    return documents.get(path)


def _resource_list(api_version: str) -> dict[str, Any]:
    listed = [entry for r in RESOURCES if r.api_version == api_version for entry in _resource_entries(r)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": listed}


def _resource_entries(resource: Resource) -> list[dict[str, Any]]:
    common = {"namespaced": True, "kind": resource.kind}
    main = {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        **common,
        "verbs": list(resource.verbs),
        "shortNames": list(resource.short_names),
    }
    names = [f"{resource.plural}/{name}" for name in resource.subresources]
    return [main, *({"name": name, "singularName": "", **common, "verbs": ["get"]} for name in names)]


def _openapi() -> dict[str, Any]:
    kind = {"group": SPARK_APPLICATIONS.group, "version": SPARK_APPLICATIONS.version, "kind": SPARK_APPLICATIONS.kind}
    patch = {
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": "string"}}
            for name in ("dryRun", "fieldManager", "fieldValidation")
        ],
        "responses": {"405": {"description": "Method Not Allowed"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": kind,
    }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes stand-in", "version": VERSION["gitVersion"]},
        "paths": {f"/{_GROUP_PATH}/namespaces/{{namespace}}/{SPARK_APPLICATIONS.plural}/{{name}}": {"patch": patch}},
    }
