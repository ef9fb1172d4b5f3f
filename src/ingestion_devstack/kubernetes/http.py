"""One request of the Kubernetes API: its path, its body, and the form of answers.

Paths and forms follow Kubernetes 1.32, k8s.io/apiserver (`pkg/endpoints/request/requestinfo.go`,
`pkg/endpoints/handlers`). A query parameter that is not served is refused with 501, never ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ingestion_devstack.kubernetes.errors import ApiError, Resource, bad_request, not_implemented
from ingestion_devstack.kubernetes.store import Key

SPARK_APPLICATIONS: Final = Resource(
    group="sparkoperator.k8s.io",
    version="v1beta2",
    plural="sparkapplications",
    kind="SparkApplication",
    verbs=("create", "delete", "get", "list"),
    short_names=("sparkapp",),
)
PODS: Final = Resource(
    group="",
    version="v1",
    plural="pods",
    kind="Pod",
    verbs=("delete", "get", "list"),
    short_names=("po",),
    subresources=("log",),
)
EVENTS: Final = Resource(group="", version="v1", plural="events", kind="Event", verbs=("list",), short_names=("ev",))
RESOURCES: Final = (PODS, EVENTS, SPARK_APPLICATIONS)

MAX_BODY_BYTES: Final = 3 * 2**20
"""The API server's own limit of a request body."""


@dataclass(frozen=True, slots=True)
class Target:
    """The object or collection that a path names."""

    resource: Resource
    namespace: str | None
    """None selects all namespaces."""
    name: str | None
    subresource: str | None

    @property
    def key(self) -> Key:
        """Key of the named object in the store."""
        return (self.resource.plural, self.namespace or "", self.name or "")


def parse_path(path: str) -> Target | None:
    """Return the object or collection of a path below `/api` or `/apis`; None for a path that is not served."""
    parts = [part for part in path.split("/") if part]
    for resource in RESOURCES:
        root = ["apis", resource.group, resource.version] if resource.group else ["api", resource.version]
        if parts[: len(root)] != root:
            continue
        rest, namespace = parts[len(root) :], None
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        if not 1 <= len(rest) <= 3 or rest[0] != resource.plural or (namespace is None and len(rest) > 1):
            continue
        _, name, subresource = (*rest, None, None)[:3]
        if subresource is None or subresource in resource.subresources:
            return Target(resource, namespace, name=name, subresource=subresource)
    return None


def answer(body: Any, *, status: int = 200, warnings: Sequence[str] = ()) -> Response:
    """Return a JSON answer, with one `Warning` header per warning."""
    response = Response(orjson.dumps(body), status_code=status, media_type="application/json")
    for warning in warnings:
        escaped = warning.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.append("Warning", f'299 - "{escaped}"')
    return response


def answer_error(error: ApiError) -> Response:
    """Return a refusal as a `Status` object."""
    return answer(error.status(), status=error.code)


def answer_unknown_path() -> Response:
    """Return an API server's answer to a path that it does not serve: plain text."""
    return PlainTextResponse("404 page not found\n", status_code=404)


async def read_json(request: Request) -> Any:
    """Return the body; None when it is empty.

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
    if kind not in ("application/json", "*/*"):
        message = "the body of the request was in an unknown format - accepted media types include: application/json"
        raise ApiError(415, "UnsupportedMediaType", message, details={})
    try:
        return orjson.loads(bytes(body))
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the object provided is unrecognized (must be of type JSON): {error}") from error


def check_parameters(query: Mapping[str, str], served: Collection[str]) -> None:
    """Return when every query parameter is served, absent, or off.

    Raises:
        ApiError: 501, naming one that is not served.
    """
    for name, value in query.items():
        if name not in served and value.lower() not in ("", "0", "false"):
            raise not_implemented(f"the query parameter {name}={value}")


def read_number(query: Mapping[str, str], name: str) -> int | None:
    """Return a parameter that is a whole number from 0 on; None when it is absent.

    Raises:
        ApiError: 400 for another text.
    """
    text = query.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise bad_request(f'{name}: strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)
