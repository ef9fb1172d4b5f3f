"""Refusals of the Kubernetes API, in the shape that its clients read: `Status` objects with code, reason and details.

Wording and reasons follow Kubernetes 1.32, k8s.io/apimachinery (`pkg/api/errors/errors.go`,
`pkg/util/validation/field/errors.go`). Exception: `not_implemented` (501), by which the stand-in names what a real API
server would serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object and its place in the API."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    verbs: tuple[str, ...]
    short_names: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name in messages: `sparkapplications.sparkoperator.k8s.io`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


class ApiError(Exception):
    """A refusal; `status()` is its body."""

    def __init__(self, code: int, reason: str, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """Return the `Status` object of this refusal."""
        head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        reason = {"reason": self.reason} if self.reason else {}
        details = {} if self.details is None else {"details": self.details}
        return {**head, "message": self.message, **reason, **details, "code": self.code}


@dataclass(frozen=True, slots=True)
class Cause:
    """One invalid field."""

    field: str
    """Path from the object's root, e.g. `spec.executor`."""
    reason: str
    """FieldValueRequired, FieldValueInvalid and the like."""
    message: str

    def __str__(self) -> str:
        """The cause as part of the refusal's message."""
        return f"{self.field}: {self.message}"


def _about(resource: Resource, name: str) -> dict[str, str]:
    details = {"name": name, "group": resource.group, "kind": resource.plural}
    return {key: value for key, value in details.items() if value}


def not_found(resource: Resource, name: str) -> ApiError:
    """404: the object does not exist."""
    message = f'{resource.qualified} "{name}" not found'
    return ApiError(404, "NotFound", message, details=_about(resource, name))


def namespace_not_found(name: str) -> ApiError:
    """404: an object is created in a namespace that does not exist."""
    return ApiError(404, "NotFound", f'namespaces "{name}" not found', details={"name": name, "kind": "namespaces"})


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: an object of this name exists."""
    message = f'{resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_about(resource, name))


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422: the object violates its schema; every cause is named."""
    listed = str(causes[0]) if len(causes) == 1 else "[" + ", ".join(map(str, causes)) + "]"
    details: dict[str, Any] = {**_about(resource, name), "kind": resource.kind}
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    message = f'{resource.kind}.{resource.group} "{name}" is invalid: {listed}'
    return ApiError(422, "Invalid", message, details=details)


def bad_request(message: str) -> ApiError:
    """400: the request is malformed."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: the token is wrong."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden_path(user: str, verb: str, path: str) -> ApiError:
    """403 in the words of role-based access control, for a path without objects."""
    return ApiError(403, "Forbidden", f'forbidden: User "{user}" cannot {verb} path "{path}"', details={})


def forbidden(
    user: str, verb: str, resource: Resource, *, name: str, namespace: str | None, subresource: str | None = None
) -> ApiError:
    """403 in the words of role-based access control; without a namespace the request was for the whole cluster."""
    named = f' "{name}"' if name else ""
    what = f"{resource.plural}/{subresource}" if subresource else resource.plural
    scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    message = (
        f'{resource.qualified}{named} is forbidden: User "{user}" cannot {verb} resource "{what}" '
        f'in API group "{resource.group}" {scope}'
    )
    return ApiError(403, "Forbidden", message, details=_about(resource, name))


def denied_by_webhook(webhook: str, why: str, *, code: int = 403) -> ApiError:
    """403, or 400 without a reason: a webhook of the operator refuses the object, or cannot decode it."""
    reason = "Forbidden" if code == 403 else ""
    return ApiError(code, reason, f'admission webhook "{webhook}" denied the request: {why}')


def method_not_allowed(resource: Resource, verb: str) -> ApiError:
    """405: the resource exists, but does not support the verb."""
    message = f'{verb} is not supported on resources of kind "{resource.qualified}"'
    return ApiError(405, "MethodNotAllowed", message, details=_about(resource, ""))


def not_implemented(what: str) -> ApiError:
    """501: a real API server serves this; the stand-in does not."""
    return ApiError(501, "NotImplemented", f"The Kubernetes stand-in does not serve {what}.", details={})


def internal(message: str) -> ApiError:
    """500: an unexpected condition of the server."""
    details = {"causes": [{"message": message}]}
    return ApiError(500, "InternalError", f"Internal error occurred: {message}", details=details)
