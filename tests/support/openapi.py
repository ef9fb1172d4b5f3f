"""The OpenAPI document of the service as a judge: of itself, and of every response that a test receives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx
import jsonschema_rs
import orjson
from fastapi import FastAPI

KEYWORDS: Final = frozenset(
    {
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "description",
        "enum",
        "examples",
        "exclusiveMinimum",
        "format",
        "items",
        "maximum",
        "maxItems",
        "maxLength",
        "maxProperties",
        "minimum",
        "minItems",
        "minLength",
        "pattern",
        "properties",
        "propertyNames",
        "required",
        "title",
        "type",
        "uniqueItems",
    }
)
"""Keywords that the document uses; any other is a mistake, such as ``ge``."""


class Judge:
    """Compares responses with a document.

    Args:
        document: The OpenAPI document.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._paths = [
            (re.compile("".join(_pattern_of(part) for part in re.split(r"(\{[^}]+\})", path)) + r"\Z"), path)
            for path in sorted(document["paths"], key=lambda path: path.count("{"))
        ]
        self._validators: dict[str, Any] = {}

    def find_faults(self, response: httpx.Response) -> list[str]:
        """Return how a response differs from what the document says; nothing for routes that it does not have."""
        path, method = response.request.url.raw_path.decode().partition("?")[0], response.request.method.lower()
        template = next((template for pattern, template in self._paths if pattern.match(path)), None)
        operation = {} if template is None else self.document["paths"][template].get(method)
        if not operation:
            return []
        what = f"{method.upper()} {template} {response.status_code}"
        declared = operation["responses"].get(str(response.status_code))
        if declared is None:
            return [f"{what}: the status is not declared"]
        return [f"{what}: {fault}" for fault in self._compare(self.resolve(declared), response)]

    def _compare(self, declared: dict[str, Any], response: httpx.Response) -> Iterator[str]:
        for name, header in declared.get("headers", {}).items():
            if (value := response.headers.get(name)) is not None:
                yield from self.find_schema_faults(self.resolve(header)["schema"], value)
            elif name == "X-Request-Id":
                yield "it has no X-Request-Id"
        for name in ("location", "idempotency-replayed", "log-position", "retry-after"):
            if name in response.headers and name not in {known.lower() for known in declared.get("headers", {})}:
                yield f"the header {name} is not declared"
        contents = declared.get("content")
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if contents is None:
            if response.content:
                yield "it has a body"
            return
        if media_type not in contents:
            yield f"{media_type!r} is not declared"
        elif media_type == "text/event-stream":
            return  # without an end
        elif media_type.endswith("json"):
            yield from self.find_schema_faults(contents[media_type]["schema"], orjson.loads(response.content))

    def find_schema_faults(self, schema: dict[str, Any], value: Any) -> Iterator[str]:
        """Yield what is wrong with a value."""
        key = orjson.dumps(schema).decode()
        if key not in self._validators:
            whole = {**schema, "components": self.document["components"]}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole)
        for error in self._validators[key].iter_errors(value):
            yield f"{'/'.join(map(str, error.instance_path))}: {error.message[:300]}"

    def resolve(self, part: dict[str, Any]) -> dict[str, Any]:
        """Return what a part of the document stands for."""
        while "$ref" in part:
            found: Any = self.document
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            part = found
        return part


_judges: dict[bool, Judge] = {}


def judge_of(app: FastAPI) -> Judge:
    """Return the judge of an application; the first open one's is that of all, because it takes time to make."""
    is_open = app.state.identities.is_open
    if is_open not in _judges:
        _judges[is_open] = Judge(orjson.loads(orjson.dumps(app.openapi())))
    return _judges[is_open]


def walk(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every object and list of a document with its path."""
    yield path, part
    children: Mapping[Any, Any] = {}
    if isinstance(part, dict):
        children = part
    elif isinstance(part, list):
        children = dict(enumerate(part))
    for name, child in children.items():
        yield from walk(child, f"{path}/{name}")


def walk_schemas(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema of a document with its path, also those inside of others."""
    left = [(f"/components/schemas/{name}", schema) for name, schema in document["components"]["schemas"].items()]
    left += [
        (f"{path}/schema", part["schema"])
        for path, part in walk(document)
        if isinstance(part, dict) and "schema" in part
    ]
    while left:
        path, schema = left.pop()
        yield path, schema
        left += [(f"{path}/properties/{name}", child) for name, child in schema.get("properties", {}).items()]
        for name in ("items", "additionalProperties", "propertyNames"):
            if isinstance(schema.get(name), dict):
                left.append((f"{path}/{name}", schema[name]))
        left += [(f"{path}/anyOf/{number}", child) for number, child in enumerate(schema.get("anyOf", []))]


def _pattern_of(part: str) -> str:
    return "[^/]+" if part.startswith("{") else re.escape(part)
