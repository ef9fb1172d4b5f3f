"""The OpenAPI document: what FastAPI derives from the routes, completed by what holds for all of them.

A route declares what only it does (``problems(409)``, the headers of its success); everything else is added here, so
that no route can forget it: the refusals of the server, of access control and of validation, as problem+json, and the
headers of every response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ingestion_engine.api.problems import MEDIA_TYPE, TITLES
from ingestion_engine.models.problems import Problem

Declared = dict[int | str, dict[str, Any]]
"""Responses of a route, as FastAPI takes them."""

EVERYWHERE: Final = (400, 403, 408, 413, 414, 421, 429, 431, 500, 503)
"""What the server itself may answer to any request, before a route is chosen, and when something fails."""

_HEADERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "X-Request-Id": (
        "Id of the request in the log of the service: that of the request's own header, or a new one.",
        {"type": "string", "pattern": r"^[A-Za-z0-9._-]{1,64}$"},
    ),
    "Location": ("Path of the job.", {"type": "string", "pattern": "^/jobs/[A-Za-z0-9_-]{1,64}$"}),
    "Idempotency-Replayed": (
        "`true` when an earlier request with the same `Idempotency-Key` has done this; otherwise missing.",
        {"type": "string", "enum": ["true"]},
    ),
    "Log-Position": (
        "Position behind the last line, for `after` of the next request; only in responses to requests with `after`.",
        {"type": "string", "maxLength": 64},
    ),
    "Retry-After": (
        "Seconds after which the request may succeed; missing when nobody knows.",
        {"type": "string", "pattern": "^[0-9]{1,10}$"},
    ),
    "WWW-Authenticate": ("How to authenticate: `Bearer`.", {"type": "string"}),
}
"""Headers of responses, with their description and schema."""

_OF_STATUS: Final[Mapping[int, str]] = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
"""Further header of some problems."""

_CAUSES: Final[Mapping[int, str]] = {
    400: "The request is no HTTP that the service reads.",
    401: "The caller is not authenticated.",
    403: "The caller lacks a scope, a bucket or a collection, or the request comes from a page of another web site.",
    404: "What the path or the body names does not exist, or the caller may not see it.",
    408: "The request did not arrive in time.",
    409: "The request does not fit the present state.",
    413: "The body is too large.",
    414: "The path and the query are too long.",
    415: "The body is declared as another media type than `application/json`.",
    421: "The request is addressed to a name that is not one of the service's.",
    422: "The request does not match its schema, or cannot be processed.",
    429: "Too many requests.",
    431: "The headers are too long.",
    500: "An unexpected error; the log of the service has it under the request id.",
    501: "The service is not configured with a system that the request needs.",
    503: "A system that the request needs is unavailable, or the service is drained.",
}


def _refer(kind: str, name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{kind}/{name}"}


def problems(*statuses: int) -> Declared:
    """Return the declaration of problems that only some routes return. Pure."""
    return {status: {"description": _CAUSES[status]} for status in statuses}


def with_headers(*names: str, status: int, description: str) -> Declared:
    """Return the declaration of a success with headers of ``_HEADERS``. Pure."""
    return {status: {"description": description, "headers": {name: _refer("headers", name) for name in names}}}


ACCEPTED: Final = with_headers(
    "Location",
    "Idempotency-Replayed",
    status=202,
    description="The job is stored; it is submitted in the background.",
)
"""What the routes that create a job return."""


def install_openapi(app: FastAPI, *, discovery_url: str | None = None) -> None:
    """Have an application return the completed document.

    Args:
        app: The application.
        discovery_url: Discovery document of the OpenID Connect provider whose tokens count; None without one.
    """
    made: dict[bool, dict[str, Any]] = {}

    def describe() -> dict[str, Any]:
        is_open = app.state.identities.is_open
        if is_open not in made:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                separate_input_output_schemas=app.separate_input_output_schemas,
            )
            if discovery_url is not None:
                _declare_provider(document, discovery_url)
            made[is_open] = complete(document, is_open=is_open)
        return made[is_open]

    app.openapi = describe  # type: ignore[method-assign] # the documented way to replace it


def _declare_provider(document: dict[str, Any], discovery_url: str) -> None:
    """Declare that an access token of a provider counts wherever an API key does."""
    document["components"]["securitySchemes"]["openIdConnect"] = {
        "type": "openIdConnect",
        "openIdConnectUrl": discovery_url,
        "description": "An access token, as `Authorization: Bearer <token>`. Rules say what its holder may do.",
    }
    for item in document["paths"].values():
        for operation in item.values():
            needed = operation.get("security", [])
            # OpenAPI calls scopes of this kind those that a client requests; ours follow from the rules.
            needed += [{"openIdConnect": []} for one in needed if "apiKey" in one]


def complete(document: dict[str, Any], *, is_open: bool) -> dict[str, Any]:
    """Return a document with everything that holds for all routes; it is changed in place.

    Args:
        document: The document of FastAPI.
        is_open: Nobody has to authenticate, although everybody may.
    """
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own errors, which the service never returns
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    document["components"]["headers"] = {
        name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()
    }
    document["components"]["responses"] = {f"Problem{status}": _describe_problem(status) for status in _CAUSES}
    for path, item in document["paths"].items():
        for operation in item.values():
            _complete_operation(operation, has_names="{" in path)
            if is_open and "security" in operation and {} not in operation["security"]:
                operation["security"].append({})
    return document


def _complete_operation(operation: dict[str, Any], *, has_names: bool) -> None:
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _without_null(parameter["schema"])
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own
    found = {int(status) for status in responses} | set(EVERYWHERE)
    if {} not in operation.get("security", [{}]):
        found |= {401}
    if has_names:
        found |= {404}
    if "requestBody" in operation:
        found |= {415}
    # Without parameters, there is nothing to be wrong.
    if "requestBody" in operation or parameters:
        found |= {422}
    for status in sorted(found):
        declared = responses.pop(str(status), None)
        if status < 400:
            assert declared is not None
            responses[str(status)] = _complete_success(declared)
        elif declared is not None and MEDIA_TYPE not in declared.get("content", {MEDIA_TYPE: {}}):
            own = _describe_problem(status)  # a problem, or what the route declares
            own["description"] = declared["description"]
            own["content"] = {**declared["content"], **own["content"]}
            responses[str(status)] = own
        else:
            responses[str(status)] = _refer("responses", f"Problem{status}")


def _complete_success(declared: dict[str, Any]) -> dict[str, Any]:
    declared.setdefault("headers", {})["X-Request-Id"] = _refer("headers", "X-Request-Id")
    return declared


def _describe_problem(status: int) -> dict[str, Any]:
    names = ["X-Request-Id", *([_OF_STATUS[status]] if status in _OF_STATUS else [])]
    return {
        "description": f"{TITLES[status]}. {_CAUSES[status]}",
        "headers": {name: _refer("headers", name) for name in names},
        "content": {MEDIA_TYPE: {"schema": _refer("schemas", "Problem")}},
    }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter without null, which no query and no header can carry. Pure."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if not kinds:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}
