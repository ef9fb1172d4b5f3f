"""One request of the Kubernetes API: what it is about, and how answers look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ingestion_devstack.kubernetes.errors import ApiError, Resource, bad_request, unsupported_media_type
from ingestion_devstack.kubernetes.events import EVENTS
from ingestion_devstack.kubernetes.submit import PODS

SPARK_APPLICATIONS: Final = Resource(
    "sparkoperator.k8s.io",
    "v1beta2",
    "sparkapplications",
    "sparkapplication",
    "SparkApplication",
    ("create", "delete", "get", "list", "patch", "update", "watch"),
    short_names=("sparkapp",),
    subresources=("status",),
)
NAMESPACES: Final = Resource(
    "", "v1", "namespaces", "namespace", "Namespace", ("get", "list", "watch"), short_names=("ns",), namespaced=False
)
RESOURCES: Final = (NAMESPACES, PODS, EVENTS, SPARK_APPLICATIONS)

MAX_BODY_BYTES: Final = 3 * 2**20
"""The API server's own limit of a request body."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str | None
    """None: all namespaces, or a resource without any."""
    name: str | None
    subresource: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        """Of the named object in the store."""
        return (self.resource.plural, self.namespace or "", self.name or "")


def parse_path(path: str) -> Target | None:
    """The object or collection behind a path below `/api` or `/apis`; None for what is not served."""
    parts = [part for part in path.split("/") if part]
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = None
    if rest[:1] == ["namespaces"] and (len(rest) > 2 or group):
        namespace, rest = rest[1] if len(rest) > 1 else "", rest[2:]
    if not 1 <= len(rest) <= 3:
        return None
    plural, name, subresource = (*rest, None, None)[:3]
    for resource in RESOURCES:
        if (resource.group, resource.version, resource.plural) == (group, version, plural):
            fits = subresource is None or subresource in resource.subresources
            placed = namespace is not None or not resource.namespaced or name is None
            return Target(resource, namespace, name, subresource) if fits and placed else None
    return None


def answer(body: Any, *, status: int = 200, warnings: Sequence[str] = ()) -> Response:
    """A JSON answer, with one `Warning` header per warning."""
    response = Response(orjson.dumps(body), status_code=status, media_type="application/json")
    for warning in warnings:
        escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.append("Warning", f'299 - "{escaped}"')
    return response


def answer_error(error: ApiError) -> Response:
    """A refusal as a `Status` object."""
    response = answer(error.status(), status=error.code)
    response.headers.update(error.headers)
    return response


def answer_unknown_path() -> Response:
    """What an API server says to a path that it does not serve: plain text."""
    return PlainTextResponse("404 page not found\n", status_code=404)


async def read_json(request: Request, accepted: Sequence[str] = ("application/json",)) -> Any:
    """The body; None when it is empty.

    Raises:
        ApiError: 413 too large, 415 another content type, 400 no JSON.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY_BYTES}")
    if not body:
        return None
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind not in (*accepted, "*/*"):
        raise unsupported_media_type(accepted)
    try:
        return orjson.loads(bytes(body))
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the object provided is unrecognized (must be of type JSON): {error}") from error


def is_true(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter.

    Raises:
        ApiError: 400 for another text.
    """
    text = query.get(name, "false").lower()
    if text not in ("true", "1", "false", "0", ""):
        raise bad_request(f'{name}: strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in ("true", "1")


def read_number(query: Mapping[str, str], name: str) -> int | None:
    """A parameter that is a number from 0 on; None when it is not given.

    Raises:
        ApiError: 400 for another text.
    """
    text = query.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise bad_request(f'{name}: strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def is_dry_run(values: Sequence[str]) -> bool:
    """Whether nothing is to be stored.

    Raises:
        ApiError: 422 for anything but All.
    """
    others = [value for value in values if value != "All"]
    if others:
        message = f'dryRun: Unsupported value: "{others[0]}": supported values: "All"'
        raise ApiError(422, "Invalid", f'Options.meta.k8s.io "" is invalid: {message}', details={})
    return bool(values)
