"""The verbs of the API on stored objects: list, get, create, replace, patch, delete."""

from __future__ import annotations

import base64
import binascii
import copy
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ingestion_devstack.kubernetes import errors
from ingestion_devstack.kubernetes.admission import check_metadata, drop_nulls, review, set_defaults
from ingestion_devstack.kubernetes.http import NAMESPACES, Target, answer, is_dry_run, is_true, read_json, read_number
from ingestion_devstack.kubernetes.operator import FOREGROUND, mark_deleted
from ingestion_devstack.kubernetes.patches import json_patch, merge_patch
from ingestion_devstack.kubernetes.schema import application_schema, prune, validate
from ingestion_devstack.kubernetes.selectors import parse_field_selector, parse_label_selector
from ingestion_devstack.kubernetes.states import rfc3339
from ingestion_devstack.kubernetes.store import Object, ObjectStore
from ingestion_devstack.kubernetes.tables import make_table
from ingestion_devstack.kubernetes.watch import Selection, open_watch

_MERGE: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"
_SERVER_FIELDS: Final = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")
"""Metadata that only the server writes."""
_META_FIELDS: Final = {name: ("metadata", name) for name in ("name", "namespace")}
_FIELDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "pods": {"metadata.name": ("metadata", "name"), "status.phase": ("status", "phase")},
    "events": {
        **{f"involvedObject.{n}": ("involvedObject", n) for n in ("kind", "name", "namespace", "uid", "apiVersion")},
        "reason": ("reason",),
        "type": ("type",),
    },
}


class ResourceApi:
    """Serves the verbs; `on_spec_change(before, after)` hears of every changed SparkApplication."""

    def __init__(self, store: ObjectStore, on_spec_change: Callable[[Object, Object], None]) -> None:
        self._store = store
        self._on_spec_change = on_spec_change

    async def serve(self, request: Request, target: Target) -> Response:
        """Answer one request.

        Raises:
            ApiError: it is refused.
        """
        verbs = {
            ("GET", True): ("get", self._get),
            ("GET", False): ("list", self._list),
            ("POST", False): ("create", self._create),
            ("PUT", True): ("update", self._replace),
            ("PATCH", True): ("patch", self._patch),
            ("DELETE", True): ("delete", self._delete),
        }
        verb, serve = verbs.get((request.method, target.name is not None), ("", None))
        unplaced = verb == "create" and target.resource.namespaced and target.namespace is None
        wrong = target.subresource is not None and verb in ("create", "delete")
        if serve is None or verb not in target.resource.verbs or unplaced or wrong:
            raise errors.method_not_allowed()
        return await serve(request, target)

    async def _get(self, request: Request, target: Target) -> Response:
        value = self._known(target)
        if _wants_table(request):
            metadata = {"resourceVersion": value["metadata"]["resourceVersion"]}
            return answer(make_table(target.resource, [value], metadata))
        return answer(value)

    async def _list(self, request: Request, target: Target) -> Response:
        query, resource = request.query_params, target.resource
        by_label = parse_label_selector(query.get("labelSelector", ""))
        known = {f"metadata.{n}": path for n, path in _META_FIELDS.items()} | _FIELDS.get(resource.plural, {})
        by_field = parse_field_selector(query.get("fieldSelector", ""), known)
        selection = Selection(
            resource, target.namespace, lambda value: by_label(value) and by_field(value), _wants_table(request)
        )
        if is_true(query, "watch"):
            return StreamingResponse(open_watch(self._store, selection, query), media_type="application/json")
        self._check_version(read_number(query, "resourceVersion"))
        after = _read_continue(query.get("continue", ""))
        limit = read_number(query, "limit") or 0
        items = [
            value
            for value in self._store.select(resource.plural, target.namespace)
            if selection.holds(value) and _place(value) > after
        ]
        metadata: dict[str, Any] = {"resourceVersion": str(self._store.version)}
        if limit and len(items) > limit:
            metadata |= {"continue": _write_continue(items[limit - 1]), "remainingItemCount": len(items) - limit}
            items = items[:limit]
        if selection.as_table:
            return answer(make_table(resource, items, metadata))
        return answer(
            {"apiVersion": resource.api_version, "items": items, "kind": f"{resource.kind}List", "metadata": metadata}
        )

    async def _create(self, request: Request, target: Target) -> Response:
        body = await _read_object(request, target)
        namespace = target.namespace or ""
        if self._store.get((NAMESPACES.plural, "", namespace)) is None:
            raise errors.not_found(NAMESPACES, namespace)
        metadata = body["metadata"]
        warnings = _drop_unknown(body, request, target)
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if not metadata.get("name"):
            cause = errors.Cause(
                "metadata.name", "FieldValueRequired", "Required value: name or generateName is required"
            )
            raise errors.invalid(target.resource, "", [cause])
        for name in (*_SERVER_FIELDS, "selfLink", "managedFields"):
            metadata.pop(name, None)
        body.pop("status", None)
        metadata.update(
            namespace=namespace, uid=str(uuid.uuid4()), creationTimestamp=rfc3339(datetime.now(UTC)), generation=1
        )
        _admit(body, target)
        key = (target.resource.plural, namespace, metadata["name"])
        if self._store.get(key) is not None:
            raise errors.already_exists(target.resource, metadata["name"])
        if not is_dry_run(request.query_params.getlist("dryRun")):
            body = self._store.put(target.resource.plural, body)
        return answer(body, status=201, warnings=warnings)

    async def _replace(self, request: Request, target: Target) -> Response:
        body = await _read_object(request, target)
        if not body["metadata"].get("resourceVersion"):
            message = "Invalid value: 0: must be specified for an update"
            cause = errors.Cause("metadata.resourceVersion", "FieldValueInvalid", message)
            raise errors.invalid(target.resource, target.name or "", [cause])
        return self._update(request, target, self._known(target), body)

    async def _patch(self, request: Request, target: Target) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        patch = await read_json(request, (_JSON_PATCH, _MERGE))
        before = self._known(target)
        body = json_patch(before, patch) if kind == _JSON_PATCH else merge_patch(before, patch)
        _check_object(body, target)
        return self._update(request, target, before, body)

    def _update(self, request: Request, target: Target, before: Object, body: Object) -> Response:
        metadata, name = body["metadata"], target.name or ""
        if metadata.get("name", name) != name:
            message = f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            raise errors.bad_request(message)
        if metadata.get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
            ids = f"UID in precondition: {metadata['uid']}, UID in object meta: {before['metadata']['uid']}"
            raise errors.conflict(target.resource, name, f"Precondition failed: {ids}")
        if metadata.get("resourceVersion", "") not in ("", before["metadata"]["resourceVersion"]):
            why = "the object has been modified; please apply your changes to the latest version and try again"
            raise errors.conflict(target.resource, name, why)
        warnings = _drop_unknown(body, request, target)
        if target.subresource == "status":
            after = {**before, "status": body.get("status", {})}
            causes = list(validate(after, application_schema()))
            if causes:
                raise errors.invalid(target.resource, name, causes)
        else:
            after = _merge_update(before, body)
            _admit(after, target, before)
        changed = after != before
        if changed and not is_dry_run(request.query_params.getlist("dryRun")):
            after = self._store.put(target.resource.plural, after)
            if after["spec"] != before["spec"]:
                self._on_spec_change(before, after)
        return answer(after, warnings=warnings)

    async def _delete(self, request: Request, target: Target) -> Response:
        options = await read_json(request) or {}
        if not isinstance(options, dict):
            raise errors.bad_request("the body of a deletion is a DeleteOptions object")
        value, resource = self._known(target), target.resource
        _check_preconditions(options.get("preconditions") or {}, value, target)
        dry = is_dry_run([*request.query_params.getlist("dryRun"), *(options.get("dryRun") or [])])
        if resource.plural == "pods":
            grace = read_number(request.query_params, "gracePeriodSeconds")
            grace = options.get("gracePeriodSeconds", grace)
            grace = value["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
            return answer(value if dry else mark_deleted(self._store, "pods", value, grace))
        policy = options.get("propagationPolicy") or request.query_params.get("propagationPolicy") or "Background"
        if policy not in ("Background", "Foreground", "Orphan"):
            raise errors.bad_request(f"invalid propagationPolicy: {policy}")
        finalizers = value["metadata"].get("finalizers", [])
        if policy == "Foreground" or finalizers or value["metadata"].get("deletionTimestamp"):
            if policy == "Foreground" and FOREGROUND not in finalizers:
                value["metadata"]["finalizers"] = [*finalizers, FOREGROUND]
            return answer(value if dry else mark_deleted(self._store, resource.plural, value, 0))
        if not dry:
            if policy == "Orphan":
                self._orphan(value)
            self._store.remove(target.key)
        details = {
            "name": target.name,
            "group": resource.group,
            "kind": resource.plural,
            "uid": value["metadata"]["uid"],
        }
        return answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _orphan(self, app: Object) -> None:
        for pod in list(self._store.select("pods", app["metadata"]["namespace"])):
            owners = pod["metadata"].get("ownerReferences", [])
            left = [owner for owner in owners if owner["uid"] != app["metadata"]["uid"]]
            if left != owners:
                self._store.put("pods", {**pod, "metadata": {**pod["metadata"], "ownerReferences": left}})

    def _known(self, target: Target) -> Object:
        value = self._store.get(target.key)
        if value is None:
            raise errors.not_found(target.resource, target.name or "")
        return value

    def _check_version(self, version: int | None) -> None:
        if version is not None and version > self._store.version:
            message = f"Too large resource version: {version}, current: {self._store.version}"
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            details = {"causes": [cause], "retryAfterSeconds": 1}
            raise errors.ApiError(504, "Timeout", f"Timeout: {message}", details=details)


def _merge_update(before: Object, body: Object) -> Object:
    """The object after an update of its main resource: the server's fields and the status stay."""
    after = copy.deepcopy(body)
    metadata = after["metadata"]
    metadata["name"] = before["metadata"]["name"]
    metadata["namespace"] = before["metadata"]["namespace"]
    metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
    for name in _SERVER_FIELDS:
        metadata.pop(name, None)
        if name in before["metadata"]:
            metadata[name] = before["metadata"][name]
    after.pop("status", None)
    if "status" in before:
        after["status"] = before["status"]
    if after.get("spec") != before["spec"]:
        metadata["generation"] = before["metadata"]["generation"] + 1
    return after


def _admit(body: Object, target: Target, before: Object | None = None) -> None:
    """Validate, fill defaults, and let the operator refuse.

    Raises:
        ApiError: 422 by the schema, 403 by the operator's webhook.
    """
    causes = list(validate(body, application_schema())) or list(check_metadata(body["metadata"]))
    if causes:
        raise errors.invalid(target.resource, body["metadata"]["name"], causes)
    if before is None or not before.get("status"):
        set_defaults(body["spec"])
    if before is None or body["spec"] != before["spec"]:
        review(body)


async def _read_object(request: Request, target: Target) -> Object:
    body = await read_json(request)
    _check_object(body, target)
    return dict(body)


def _check_object(body: Any, target: Target) -> None:
    """Raise 400 unless the body is an object of this resource, for this namespace."""
    resource = target.resource
    if not isinstance(body, dict) or not isinstance(body.setdefault("metadata", {}), dict):
        raise errors.bad_request("the object provided is unrecognized (must be of type Status)")
    if body.get("apiVersion") != resource.api_version:
        given = body.get("apiVersion", "")
        message = f"the API version in the data ({given}) does not match the expected API version"
        raise errors.bad_request(f"{message} ({resource.api_version})")
    if body.get("kind") != resource.kind:
        message = f"the kind in the data ({body.get('kind', '')}) does not match the expected kind ({resource.kind})"
        raise errors.bad_request(message)
    if body["metadata"].get("namespace") not in (None, "", target.namespace):
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def _drop_unknown(body: Object, request: Request, target: Target) -> list[str]:
    """Remove nulls and the fields that the schema does not know; return the warnings about the latter.

    Raises:
        ApiError: 400 when the request asks for strictness and something was unknown.
    """
    for part in ("metadata", "spec"):
        drop_nulls(body.get(part))
    mode = request.query_params.get("fieldValidation") or "Warn"
    unknown = [f'unknown field "{path}"' for path in prune(body, application_schema())]
    if unknown and mode == "Strict":
        kind, version = target.resource.kind, target.resource.version
        message = f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: '
        raise errors.bad_request(message + ", ".join(unknown))
    return [] if mode == "Ignore" else unknown


def _check_preconditions(wanted: dict[str, str], value: Object, target: Target) -> None:
    for field, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        found = value["metadata"][field]
        if wanted.get(field, found) != found:
            why = f"{label} in precondition: {wanted[field]}, {label} in object meta: {found}"
            raise errors.conflict(target.resource, target.name or "", f"Precondition failed: {why}")


def _wants_table(request: Request) -> bool:
    return "as=Table" in request.headers.get("accept", "")


def _place(value: Object) -> tuple[str, str]:
    """Where an object stands in a list."""
    return (value["metadata"].get("namespace", ""), value["metadata"]["name"])


def _write_continue(last: Object) -> str:
    return base64.urlsafe_b64encode("/".join(_place(last)).encode()).decode()


def _read_continue(token: str) -> tuple[str, str]:
    """The place after which a list goes on; the empty token is the beginning."""
    try:
        namespace, _, name = base64.urlsafe_b64decode(token).decode().partition("/")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise errors.bad_request("continue key is not valid: illegal base64 data") from error
    return namespace, name
