"""What an API server tells about itself: version, groups, resources, and the OpenAPI document that kubectl reads."""

from __future__ import annotations

from typing import Any, Final

from ingestion_devstack.kubernetes.errors import Resource
from ingestion_devstack.kubernetes.http import RESOURCES, SPARK_APPLICATIONS
from ingestion_devstack.kubernetes.schema import application_schema

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
"""The release whose answers these are; kubectl may be one minor release away."""

_GROUP_PATH: Final = f"apis/{SPARK_APPLICATIONS.api_version}"
_TYPE: Final = {
    "group": SPARK_APPLICATIONS.group,
    "version": SPARK_APPLICATIONS.version,
    "kind": SPARK_APPLICATIONS.kind,
}


def discover(path: str) -> dict[str, Any] | None:
    """The discovery document at a path; None when there is none."""
    group = {
        "name": SPARK_APPLICATIONS.group,
        "versions": [_group_version()],
        "preferredVersion": _group_version(),
    }
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
    }
    if path == f"/openapi/v3/{_GROUP_PATH}":
        return _openapi()
    return documents.get(path)


def _group_version() -> dict[str, str]:
    return {"groupVersion": SPARK_APPLICATIONS.api_version, "version": SPARK_APPLICATIONS.version}


def _resource_list(api_version: str) -> dict[str, Any]:
    listed = [entry for r in RESOURCES if r.api_version == api_version for entry in _resource_entries(r)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": listed}


def _resource_entries(resource: Resource) -> list[dict[str, Any]]:
    common = {"namespaced": resource.namespaced, "kind": resource.kind}
    main = {
        "name": resource.plural,
        "singularName": resource.singular,
        **common,
        "verbs": list(resource.verbs),
        "shortNames": list(resource.short_names),
    }
    verbs = {"status": ["get", "patch", "update"], "log": ["get"]}
    others = [
        {"name": f"{resource.plural}/{name}", "singularName": "", **common, "verbs": verbs[name]}
        for name in resource.subresources
    ]
    return [main, *others]


def _openapi() -> dict[str, Any]:
    """OpenAPI v3 of the SparkApplication's group; about 1 MB."""
    model = "io.k8s.sparkoperator.v1beta2.SparkApplication"
    reference = {"$ref": f"#/components/schemas/{model}"}
    media = {"application/json": {"schema": reference}}
    names = ("dryRun", "fieldManager", "fieldValidation")
    options = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
    item = f"/{_GROUP_PATH}/namespaces/{{namespace}}/{SPARK_APPLICATIONS.plural}/{{name}}"

    def operation(action: str) -> dict[str, Any]:
        return {
            "parameters": options if action != "get" else [],
            "responses": {"200": {"description": "OK", "content": media}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": _TYPE,
        }

    schema = {**application_schema(), "x-kubernetes-group-version-kind": [_TYPE]}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes stand-in", "version": VERSION["gitVersion"]},
        "paths": {
            item: {"get": operation("get"), "put": operation("put"), "patch": operation("patch")},
            item.rpartition("/")[0]: {"post": operation("post")},
        },
        "components": {"schemas": {model: schema}},
    }
