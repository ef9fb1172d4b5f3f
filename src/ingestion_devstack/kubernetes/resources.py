"""The verbs of the API on stored objects: list, get, create and delete.

Imitates the generic registry and handlers of Kubernetes 1.32, k8s.io/apiserver
(`pkg/registry/generic/registry/store.go`, `pkg/endpoints/handlers`). Every other verb is refused with 405: patches,
updates, watches and deletions of whole collections. `limit` is accepted without effect, as the API conventions allow:
an answer always holds the whole list.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from ingestion_devstack.kubernetes import errors
from ingestion_devstack.kubernetes.admission import admit
from ingestion_devstack.kubernetes.faults import FaultPlan
from ingestion_devstack.kubernetes.http import (
    EVENTS,
    PODS,
    SPARK_APPLICATIONS,
    Target,
    answer,
    check_parameters,
    read_json,
    read_number,
)
from ingestion_devstack.kubernetes.operator import FOREGROUND, mark_deleted
from ingestion_devstack.kubernetes.store import Object, ObjectStore
from ingestion_devstack.kubernetes.tables import make_table
from ingestion_engine.runtime.timestamps import timestamp_now

VERBS: Final = {
    ("GET", True): "get",
    ("GET", False): "list",
    ("POST", False): "create",
    ("PUT", True): "update",
    ("PATCH", True): "patch",
    ("DELETE", True): "delete",
    ("DELETE", False): "deletecollection",
}
"""Verb of a method on a named object (True) or on a collection (False)."""


class ResourceApi:
    """Serves the verbs; applications can be created in `namespaces`."""

    def __init__(self, store: ObjectStore, namespaces: Collection[str], faults: FaultPlan) -> None:
        self._store = store
        self._namespaces = namespaces
        self._faults = faults

    async def serve(self, request: Request, target: Target) -> Response:
        """Answer one request.

        Raises:
            ApiError: it is refused.
        """
        verb = VERBS.get((request.method, target.name is not None), request.method.lower())
        if request.query_params.get("watch", "").lower() in ("1", "true"):
            verb = "watch"
        placed = target.namespace is not None or verb != "create"
        if verb not in target.resource.verbs or not placed:
            raise errors.method_not_allowed(target.resource, verb)
        serve = {"get": self._get, "list": self._list, "create": self._create, "delete": self._delete}[verb]
        return await serve(request, target)

    async def _get(self, request: Request, target: Target) -> Response:
        check_parameters(request.query_params, ())
        value = self._find(target)
        if _wants_table(request, target):
            return answer(make_table([value], {"resourceVersion": value["metadata"]["resourceVersion"]}))
        return answer(value)

    async def _list(self, request: Request, target: Target) -> Response:
        query, resource = request.query_params, target.resource
        check_parameters(query, ("limit", "fieldSelector") if resource is EVENTS else ("limit",))
        wanted = _read_field_selector(query.get("fieldSelector", ""))
        items = [
            value
            for value in self._store.list_objects(resource.plural, target.namespace)
            if all(_read_field(value, field) == text for field, text in wanted.items())
        ]
        metadata: dict[str, Any] = {"resourceVersion": str(self._store.version)}
        if _wants_table(request, target):
            return answer(make_table(items, metadata))
        head = {"apiVersion": resource.api_version, "kind": f"{resource.kind}List", "metadata": metadata}
        return answer({**head, "items": items})

    async def _create(self, request: Request, target: Target) -> Response:
        query, namespace = request.query_params, target.namespace or ""
        check_parameters(query, ("dryRun", "fieldManager", "fieldValidation"))
        if query.get("dryRun", "All") != "All":
            raise errors.bad_request(f'dryRun: Unsupported value: "{query["dryRun"]}": supported values: "All"')
        body = await read_json(request)
        _check_object(body, target)
        if namespace not in self._namespaces:
            raise errors.namespace_not_found(namespace)
        given = {name: body["metadata"].get(name) for name in ("name", "labels", "annotations")}
        body["metadata"] = {
            **{name: value for name, value in given.items() if value},
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "generation": 1,
        }
        body.pop("status", None)
        warnings = admit(body, strict=query.get("fieldValidation") == "Strict", webhook=self._faults.webhook)
        body["metadata"]["creationTimestamp"] = timestamp_now()
        name = body["metadata"]["name"]
        if self._store.get((target.resource.plural, namespace, name)) is not None:
            raise errors.already_exists(target.resource, name)
        if "dryRun" not in query:
            body = self._store.put(target.resource.plural, body)
        return answer(body, status=201, warnings=warnings)

    async def _delete(self, request: Request, target: Target) -> Response:
        query = request.query_params
        check_parameters(query, ("gracePeriodSeconds", "propagationPolicy"))
        options = await read_json(request) or {}
        if not isinstance(options, dict):
            raise errors.bad_request("the object provided is unrecognized (must be of type DeleteOptions)")
        other = options.keys() - {"kind", "apiVersion", "gracePeriodSeconds", "propagationPolicy"}
        if other:
            raise errors.not_implemented(f"the field {min(other)} of DeleteOptions")
        value, resource = self._find(target), target.resource
        if resource is PODS:
            grace = options.get("gracePeriodSeconds", read_number(query, "gracePeriodSeconds"))
            grace = value["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
            return answer(mark_deleted(self._store, "pods", value, grace_s=grace))
        policy = options.get("propagationPolicy") or query.get("propagationPolicy") or "Background"
        if policy not in ("Background", "Foreground"):
            raise errors.not_implemented(f"the propagation policy {policy}")
        if policy == "Foreground":
            value["metadata"]["finalizers"] = [FOREGROUND]
            return answer(mark_deleted(self._store, resource.plural, value, grace_s=0))
        self._store.remove(target.key)
        uid = value["metadata"]["uid"]
        details = {"name": target.name, "group": resource.group, "kind": resource.plural, "uid": uid}
        return answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _find(self, target: Target) -> Object:
        value = self._store.get(target.key)
        if value is None:
            raise errors.not_found(target.resource, target.name or "")
        return value


def _check_object(body: Any, target: Target) -> None:
    """Raise 400 unless the body is a named object of this resource, for this namespace; 501 for what is not served."""
    resource = target.resource
    if not isinstance(body, dict) or not isinstance(body.get("metadata"), dict):
        raise errors.bad_request("the object provided is unrecognized (must be of type Status)")
    metadata = body["metadata"]
    given = (body.get("apiVersion"), body.get("kind"))
    if given != (resource.api_version, resource.kind):
        message = f"the API version and kind in the data {given} do not match the expected ones"
        raise errors.bad_request(f"{message} ({resource.api_version}, {resource.kind})")
    if metadata.get("namespace") not in (None, "", target.namespace):
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    other = {name for name, value in metadata.items() if value} - {"name", "namespace", "labels", "annotations"}
    if other:
        raise errors.not_implemented(f"the field metadata.{min(other)}")
    if not isinstance(metadata.get("name"), str) or not metadata["name"]:
        message = "Required value: name or generateName is required"
        raise errors.invalid(
            resource, "", [errors.Cause("metadata.name", reason="FieldValueRequired", message=message)]
        )


def _read_field_selector(text: str) -> dict[str, str]:
    """Read `involvedObject.name=x,involvedObject.uid=y,type=Warning`, by which clients find an object's events."""
    terms = {}
    for term in filter(None, text.split(",")):
        field, found, value = term.partition("=")
        if not found or not (field == "type" or field.startswith("involvedObject.")) or field.endswith("!"):
            raise errors.not_implemented(f"the field selector {term!r}")
        terms[field] = value.removeprefix("=")
    return terms


def _read_field(value: Object, path: str) -> str:
    inner: Any = value
    for part in path.split("."):
        inner = inner.get(part, "")
    return str(inner)


def _wants_table(request: Request, target: Target) -> bool:
    return target.resource is SPARK_APPLICATIONS and "as=Table" in request.headers.get("accept", "")
