"""The OpenAPI document: complete, valid, true, and the same for every release."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from fastapi import FastAPI

from ingestion_engine.server.app import create_app
from support.control import BODY, World, bearer, write_keys
from support.openapi import KEYWORDS, Judge, judge_of, walk, walk_schemas

REQUESTS = {"JobRequest", "SearchRequest", "RollbackOrder", "DrainOrder"}
"""Models of bodies of requests; theirs are the parts that they refer to."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(World(tmp_path_factory.mktemp("service")).settings())


@pytest.fixture(scope="module")
def judge(app: FastAPI) -> Judge:
    return judge_of(app)


def operations(judge: Judge) -> list[tuple[str, dict[str, Any]]]:
    paths = judge.document["paths"].items()
    return [(f"{method} {path}", operation) for path, item in paths for method, operation in item.items()]


def test_every_reference_leads_somewhere_and_every_component_is_used(judge: Judge) -> None:
    """A client can be generated from it; FastAPI's own errors, which the service never returns, are not in it."""
    used = {part["$ref"] for _, part in walk(judge.document) if isinstance(part, dict) and "$ref" in part}
    for reference in used:
        judge.resolve({"$ref": reference})
    defined = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in judge.document["components"][kind]
    }
    assert defined - used == set()
    assert "HTTPValidationError" not in judge.document["components"]["schemas"]


def test_every_schema_is_one(judge: Judge) -> None:
    """By JSON Schema 2020-12, with keywords that it has; defaults and examples are valid."""
    for path, schema in walk_schemas(judge.document):
        assert schema.keys() <= KEYWORDS, (path, schema.keys() - KEYWORDS)
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        if "pattern" in schema:
            re.compile(schema["pattern"])
            assert "\\Z" not in schema["pattern"], (path, "is Python's")
        for value in [*([schema["default"]] if "default" in schema else []), *schema.get("examples", [])]:
            assert list(judge.find_schema_faults(schema, value)) == [], path


def test_the_examples_of_bodies_are_valid(judge: Judge) -> None:
    """Those that people copy."""
    found = 0
    for what, operation in operations(judge):
        content = operation.get("requestBody", {}).get("content", {})
        assert content.keys() <= {"application/json"}, what
        for media in content.values():
            for name, example in media.get("examples", {}).items():
                assert list(judge.find_schema_faults(media["schema"], example["value"])) == [], (what, name)
                found += 1
    assert found >= 10


def test_every_text_and_list_that_a_client_sends_has_a_maximum(judge: Judge) -> None:
    """And every number, name and value of a map; unknown members are refused."""
    left = [(name, judge.document["components"]["schemas"][name]) for name in REQUESTS]
    for what, operation in operations(judge):
        left += [(f"{what} {one['name']}", one["schema"]) for one in operation.get("parameters", [])]
    checked = 0
    while left:
        path, schema = left.pop()
        schema = judge.resolve(schema)
        checked += 1
        left += [(f"{path}/{name}", child) for name, child in schema.get("properties", {}).items()]
        left += [(path, child) for child in schema.get("anyOf", [])]
        kind = schema.get("type")
        if kind == "object":
            more = schema.get("additionalProperties")
            if isinstance(more, dict):
                assert {"maxProperties", "maxLength"} <= {*schema, *schema["propertyNames"]}, path
                left.append((f"{path}/*", more))
            else:
                assert more is False, path
        elif kind == "array":
            assert "maxItems" in schema, path
            left.append((f"{path}/0", schema["items"]))
        elif kind == "string":
            is_closed = "enum" in schema or "const" in schema or schema.get("format") == "date-time"
            assert is_closed or "maxLength" in schema, path
        elif kind in {"integer", "number"}:
            assert "maximum" in schema, path
            assert {"minimum", "exclusiveMinimum"} & schema.keys(), path
        else:
            assert kind in {"boolean", "null"} or "anyOf" in schema, path
    assert checked > 60


def test_names_in_paths_have_patterns_and_nothing_in_a_query_is_null(judge: Judge) -> None:
    """A query string has texts only."""
    for what, operation in operations(judge):
        for one in operation.get("parameters", []):
            schema = judge.resolve(one["schema"])
            assert one["in"] != "path" or "pattern" in schema, (what, one["name"])
            assert {"type": "null"} not in schema.get("anyOf", []), (what, one["name"])
            assert one.get("description") or one["schema"].get("description"), (what, one["name"])


def test_every_operation_declares_what_it_returns(judge: Judge) -> None:
    """Successes with a sentence of their own; every error as problem+json, with the statuses that it can have."""
    for what, operation in operations(judge):
        statuses = {int(status): judge.resolve(one) for status, one in operation["responses"].items()}
        assert all(operation[name] for name in ("operationId", "summary", "tags")), what
        assert min(statuses) in {200, 202, 204}, what
        assert {400, 403, 413, 414, 421, 429, 431, 500, 503} <= statuses.keys(), what
        assert (401 in statuses) == ("security" in operation and what != "get /readyz"), what
        assert (415 in statuses) == ("requestBody" in operation), what
        for status, response in statuses.items():
            assert response["description"] not in {"Successful Response", "Validation Error", ""}, what
            assert "X-Request-Id" in response["headers"], what
            if status >= 400:
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}
                assert response["content"].keys() == {"application/problem+json"} or (what, status) == (
                    "get /readyz",
                    503,
                )
        assert all("Retry-After" in statuses[status]["headers"] for status in (429, 503))
        creates = statuses.get(202, {}).get("content", {}).get("application/json", {}).get("schema", {})
        if creates == {"$ref": "#/components/schemas/JobAccepted"}:
            assert {"Location", "Idempotency-Replayed"} <= statuses[202]["headers"].keys(), what
            names = [one["name"] for one in operation["parameters"]]
            assert "Idempotency-Key" in names, (what, "creates a job, but cannot be repeated")


async def test_whether_a_key_is_needed_is_declared(tmp_path: Path) -> None:
    """Where no key is configured, everybody may call every operation; else those of the probes only."""
    keys = write_keys(tmp_path, {"name": "admin"})
    for settings, needed in (
        ({}, set()),
        ({"api": {"keys_file": keys}}, {"search", "read", "submit", "delete", "admin"}),
    ):
        async with World(tmp_path).serve(headers=bearer("admin"), **settings) as plane:
            document = (await plane.client.get("/openapi.json")).json()
        found = operations(Judge(document))
        required = [one["security"] for _, one in found if {} not in one.get("security", [{}])]
        assert {scope for one in required for scope in one[0]["apiKey"]} == needed
        optional = {what for what, one in found if {} in one.get("security", [{}])}
        assert not needed or optional == {"get /livez", "get /readyz", "get /metrics"}


def test_operations_keep_their_names(judge: Judge) -> None:
    """Generated clients have methods of these names; new ones may be added."""
    names = {operation["operationId"]: what for what, operation in operations(judge)}
    assert len(names) == len(operations(judge))
    assert names.items() >= OPERATIONS.items()


OPERATIONS = {
    "submit_ray_job": "post /ray/jobs",
    "submit_spark_job": "post /spark/jobs",
    "show_spark_manifest": "post /spark/manifest",
    "list_jobs": "get /jobs",
    "get_job": "get /jobs/{job_id}",
    "list_failures": "get /jobs/{job_id}/failures",
    "read_logs": "get /jobs/{job_id}/logs",
    "cancel_job": "post /jobs/{job_id}/cancel",
    "retry_job": "post /jobs/{job_id}/retry",
    "follow_job": "get /jobs/{job_id}/events",
    "list_collections": "get /collections",
    "get_collection": "get /collections/{name}",
    "delete_collection": "delete /collections/{name}",
    "list_objects": "get /collections/{name}/objects",
    "delete_objects": "delete /collections/{name}/objects",
    "list_chunks": "get /collections/{name}/chunks",
    "search": "post /search",
    "list_aliases": "get /aliases",
    "get_alias": "get /aliases/{name}",
    "roll_back_alias": "post /aliases/{name}/rollback",
    "prune_alias": "delete /aliases/{name}/versions",
    "remove_alias": "delete /aliases/{name}",
    "livez": "get /livez",
    "readyz": "get /readyz",
    "metrics": "get /metrics",
    "get_drain": "get /drain",
    "start_drain": "put /drain",
    "end_drain": "delete /drain",
}


def test_streams_and_texts_are_declared_as_such(judge: Judge) -> None:
    """Not as JSON."""
    paths = judge.document["paths"]
    for path, media_type in (("events", "text/event-stream"), ("logs", "text/plain")):
        content = paths[f"/jobs/{{job_id}}/{path}"]["get"]["responses"]["200"]["content"]
        assert content == {media_type: {"schema": {"type": "string"}}}
    assert paths["/metrics"]["get"]["responses"]["200"]["content"].keys() == {"text/plain"}


@pytest.mark.parametrize(
    ("status", "headers", "content", "fault"),
    [
        (200, {}, b"", "has no X-Request-Id"),
        (418, {}, b"", "the status is not declared"),
        (200, {"content-type": "text/html"}, b"", "'text/html' is not declared"),
        (200, {"content-type": "application/json"}, b'{"items": 1}', "items"),
        (200, {"content-type": "application/json"}, b'{"items": []}', "next_cursor"),
        (422, {"content-type": "application/json"}, b"{}", "'application/json' is not declared"),
        (422, {"content-type": "application/problem+json"}, b"{}", "required"),
        (200, {"location": "/jobs/a"}, b"", "location is not declared"),
    ],
)
def test_a_response_that_is_not_declared_fails_the_test_that_receives_it(
    judge: Judge, status: int, headers: dict[str, str], content: bytes, fault: str
) -> None:
    """Every test that calls a service of ``support.control`` compares its responses with the document."""
    marked = headers if "X-Request-Id" in fault else {"x-request-id": "a", **headers}
    request = httpx.Request("GET", "http://localhost/jobs?limit=1")
    response = httpx.Response(status, headers=marked, content=content, request=request)
    assert any(fault in found for found in judge.find_faults(response))


async def test_the_service_itself_is_judged(tmp_path: Path) -> None:
    """A success with its headers, an error, and a text."""
    async with World(tmp_path).serve() as plane:
        assert (await plane.client.post("/ray/jobs", json=BODY)).headers["location"].startswith("/jobs/")
        assert (await plane.client.get("/jobs/none")).status_code == 404
        assert (await plane.client.get("/metrics")).status_code == 200
        document = (await plane.client.get("/openapi.json")).json()
    assert document == judge_of(plane.app).document
