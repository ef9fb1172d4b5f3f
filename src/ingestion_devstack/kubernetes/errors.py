"""Refusals of the Kubernetes API, in the exact shape its clients read: `Status` objects with code, reason and details.

Wording and reasons follow k8s.io/apimachinery (`pkg/api/errors`, `pkg/util/validation/field`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object and where it lives in the API."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    singular: str
    kind: str
    verbs: tuple[str, ...]
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """What objects carry as `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name in messages: `sparkapplications.sparkoperator.k8s.io`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


class ApiError(Exception):
    """A refusal; `status()` is its body."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details) if details is not None else None
        self.headers = dict(headers or {})

    def status(self) -> dict[str, Any]:
        """The `Status` object of this refusal."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            body["details"] = self.details
        return {**body, "code": self.code}


@dataclass(frozen=True, slots=True)
class Cause:
    """One invalid field."""

    field: str
    """Path from the object's root, e.g. `spec.driver.cores`."""
    reason: str
    """FieldValueRequired, FieldValueInvalid, FieldValueTypeInvalid, FieldValueNotSupported, FieldValueForbidden."""
    message: str

    def __str__(self) -> str:
        """As it stands in the message of the whole refusal."""
        return f"{self.field}: {self.message}"


def _about(resource: Resource, name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name, "group": resource.group, "kind": resource.plural}
    return {key: value for key, value in details.items() if value}


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no such object."""
    message = f'{resource.qualified} "{name}" not found'
    return ApiError(404, "NotFound", message, details=_about(resource, name))


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: the name is taken."""
    message = f'{resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_about(resource, name))


def conflict(resource: Resource, name: str, why: str) -> ApiError:
    """409: the object is not the one the caller has seen."""
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=_about(resource, name))


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422: the object breaks its schema; every cause is named."""
    listed = str(causes[0]) if len(causes) == 1 else "[" + ", ".join(map(str, causes)) + "]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details: dict[str, Any] = {"name": name, "group": resource.group, "kind": resource.kind}
    details = {key: value for key, value in details.items() if value}
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {listed}', details=details)


def bad_request(message: str) -> ApiError:
    """400: the request itself makes no sense."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: no token, or not the right one."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource | None, verb: str, namespace: str, name: str = "") -> ApiError:
    """403 as role-based access control says it."""
    if resource is None:
        return ApiError(403, "Forbidden", f'forbidden: User "ingest" cannot {verb} this path', details={})
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    message = (
        f'{subject} is forbidden: User "ingest" cannot {verb} resource "{resource.plural}" '
        f'in API group "{resource.group}" in the namespace "{namespace}"'
    )
    return ApiError(403, "Forbidden", message, details=_about(resource, name))


def denied_by_webhook(webhook: str, why: str) -> ApiError:
    """403: the operator's validating webhook refuses the object."""
    return ApiError(403, "Forbidden", f'admission webhook "{webhook}" denied the request: {why}')


def method_not_allowed() -> ApiError:
    """405: the resource exists, the verb does not."""
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, details={})


def expired(message: str) -> ApiError:
    """410: the version asked for is no longer known; list again."""
    return ApiError(410, "Expired", message)


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    """415: the body's content type is not read here."""
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return ApiError(415, "UnsupportedMediaType", message, details={})


def internal(message: str) -> ApiError:
    """500: an unexpected condition of the server."""
    return ApiError(
        500, "InternalError", f"Internal error occurred: {message}", details={"causes": [{"message": message}]}
    )
