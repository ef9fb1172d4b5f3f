"""Reviews of an account's own access: `selfsubjectaccessreviews` of `authorization.k8s.io/v1`.

Forms and refusals were compared with an API server of Kubernetes 1.34 with role-based access control. The account of
the stand-in may do everything, except for the permissions that a fault denies.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from ingestion_devstack.kubernetes import errors
from ingestion_devstack.kubernetes.errors import Resource
from ingestion_devstack.kubernetes.http import answer, check_parameters, read_json

REVIEWS: Final = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectaccessreviews",
    kind="SelfSubjectAccessReview",
    verbs=("create",),
)
PATH: Final = f"/apis/{REVIEWS.api_version}/{REVIEWS.plural}"
_RULE: Final = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
_FIELDS: Final = ("namespace", "verb", "group", "version", "resource", "subresource", "name")


async def review(request: Request, denied: Collection[str]) -> Response:
    """Answer one review; `denied` are permissions such as `get pods/log`.

    Raises:
        ApiError: it is refused.
    """
    if request.method != "POST":
        raise errors.method_not_allowed(REVIEWS, request.method.lower())
    check_parameters(request.query_params, ("fieldManager", "fieldValidation"))
    body = await read_json(request)
    if not isinstance(body, dict):
        raise errors.bad_request("the object provided is unrecognized (must be of type SelfSubjectAccessReview)")
    given = (body.get("apiVersion", REVIEWS.api_version), body.get("kind", REVIEWS.kind))
    if given != (REVIEWS.api_version, REVIEWS.kind):
        message = f'{given[1]} in version "{given[0]}" cannot be handled as a {REVIEWS.kind}'
        raise errors.bad_request(f'{message}: no kind "{given[1]}" is registered for version "{given[0]}"')
    spec = body.get("spec") or {}
    asked = spec.get("resourceAttributes")
    if spec.get("nonResourceAttributes"):
        raise errors.not_implemented("reviews of nonResourceAttributes")
    if not isinstance(asked, dict):
        cause = errors.Cause("spec.resourceAttributes", "FieldValueInvalid", message=f"Invalid value: null: {_RULE}")
        raise errors.invalid(REVIEWS, "", [cause])
    kept = {name: asked[name] for name in _FIELDS if asked.get(name)}
    refused = name_permission(kept) in denied
    status: dict[str, Any] = {"allowed": False} if refused else {"allowed": True, "reason": "RBAC: allowed"}
    head = {"kind": REVIEWS.kind, "apiVersion": REVIEWS.api_version, "metadata": {}}
    return answer({**head, "spec": {"resourceAttributes": kept}, "status": status}, status=201)


def name_permission(asked: dict[str, str]) -> str:
    """Return the attributes of a request in a few words: `get pods/log`."""
    resource = "/".join(filter(None, (asked.get("resource"), asked.get("subresource"))))
    return f"{asked.get('verb')} {resource}"
