"""Values that some parsers accept and others do not: the service accepts what the standard says, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from support.control import BODY, World, make_collection

JSON = {"content-type": "application/json"}

WITH_BODY = (("POST", "/ray/jobs"), ("POST", "/search"), ("PUT", "/drain"), ("POST", "/aliases/a/rollback"))
"""Routes that take a body, required or not."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    make_collection(made)
    return made


async def send(world: World, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    async with world.serve() as plane:
        answer = await plane.client.request(method, path, **options)
        assert answer.headers["content-type"] in {"application/problem+json", "application/json"}
        return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"delete_missing": "yes"}, "delete_missing"),
        ({"delete_missing": "false"}, "delete_missing"),
        ({"allow_mass_delete": 1}, "allow_mass_delete"),
        ({"retry_failed": None}, "retry_failed"),
        ({"parallelism": "4"}, "parallelism"),
        ({"parallelism": True}, "parallelism"),
        ({"parallelism": 4.5}, "parallelism"),
        ({"priority": " 5 "}, "priority"),
        ({"max_runtime_s": "1_000"}, "max_runtime_s"),
        ({"failure_budget": {"max_fraction": "0.1"}}, "failure_budget.max_fraction"),
        ({"failure_budget": {"min_objects": False}}, "failure_budget.min_objects"),
        ({"chunking": {"max_chars": "900"}}, "chunking.max_chars"),
        ({"metadata": {"team": 1}}, "metadata.team"),
    ],
)
async def test_a_text_is_no_boolean_and_no_number(world: World, change: dict[str, Any], field: str) -> None:
    """The problem names the field; nothing is submitted."""
    status, problem = await send(world, "POST", "/ray/jobs", json={**BODY, **change})
    assert (status, problem["code"], problem["field"]) == (422, "validation_error", field)
    async with world.serve() as plane:
        assert (await plane.client.get("/jobs")).json()["items"] == []


async def test_an_integer_may_be_written_with_a_fraction_of_zero(world: World) -> None:
    """JSON has one type of numbers: 4.0 is 4."""
    status, accepted = await send(
        world,
        "POST",
        "/ray/jobs",
        content=b'{"source":{"bucket":"docs"},"collection":"a","parallelism":4.0}',
        headers=JSON,
    )
    assert (status, accepted["state"]) == (202, "queued")


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/jobs/{job}/cancel?force=yes", "query.force"),
        ("POST", "/jobs/{job}/cancel?force=1", "query.force"),
        ("POST", "/jobs/{job}/cancel?force=True", "query.force"),
        ("GET", "/jobs?limit=1_0", "query.limit"),
        ("GET", "/jobs?limit=%2B5", "query.limit"),
        ("GET", "/jobs?limit=5.0", "query.limit"),
        ("GET", "/jobs?limit=%D9%A5", "query.limit"),
        ("GET", "/jobs?limit=05", "query.limit"),
        ("GET", "/jobs?collection=" + "a" * 200, "query.collection"),
        ("GET", "/jobs?cursor=" + "a" * 5000, "query.cursor"),
        ("GET", "/jobs?" + "&".join(["state=queued"] * 33), "query.state"),
        ("GET", "/collections/notes/objects?prefix=" + "a" * 1025, "query.prefix"),
        ("DELETE", "/collections/notes/objects?prefix=&all=on", "query.all"),
        ("DELETE", "/aliases/docs/versions?keeep=0", "query.keeep"),
        ("GET", "/readyz?within_s=inf", "query.within_s"),
        ("GET", "/readyz?within_s=1e400", "query.within_s"),
        ("GET", "/readyz?within_s=1_0", "query.within_s"),
    ],
)
async def test_a_query_has_plain_booleans_and_numbers(world: World, method: str, path: str, field: str) -> None:
    """And no name that the route does not know: a misspelt one would do the opposite of what was meant."""
    async with world.serve() as plane:
        job = await plane.submit(collection="other")
        answer = await plane.client.request(method, path.format(job=job))
        assert (answer.status_code, answer.json().get("field")) == (422, field), answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/jobs",
        "/jobs/{job}/failures",
        "/collections",
        "/collections/notes/objects",
        "/collections/notes/chunks",
        "/audit",
    ],
)
async def test_an_empty_cursor_means_the_first_page(world: World, path: str) -> None:
    """Scripts begin with an empty variable; some lists took it, others refused it."""
    async with world.serve() as plane:
        job = await plane.submit(collection="other")
        query = {"cursor": "", **({"key": "0.txt"} if "chunks" in path else {})}
        answer = await plane.client.get(path.format(job=job), params=query)
        assert answer.status_code == (404 if "chunks" in path else 200), answer.text  # no such object


@pytest.mark.parametrize(
    "query",
    ["&".join(f"u{n}=1" for n in range(5_000)), "&".join(["limit=1"] * 5_000), "%ff=%ff", "=&&=", "limit=%00"],
)
async def test_a_strange_query_has_a_small_answer(world: World, query: str) -> None:
    """However many names it has, and whatever bytes."""
    status, body = await send(world, "GET", f"/jobs?{query}")
    assert status in {200, 422}
    assert len(orjson.dumps(body)) < 50_000


async def test_a_body_in_chunks_is_a_body(world: World) -> None:
    """Without a length, in pieces that split a character."""
    whole = '{"source": {"bucket": "docs"}, "collection": "a", "metadata": {"team": "ü"}}'.encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), 7):
            yield whole[start : start + 7]

    status, accepted = await send(world, "POST", "/ray/jobs", content=pieces(), headers=JSON)
    assert (status, accepted["collection"]) == (202, "a")


async def test_a_long_cursor_is_not_repeated_in_full(world: World) -> None:
    """An answer is not as long as what somebody sends."""
    for path in ("/jobs", "/collections/notes/objects", "/audit"):
        status, problem = await send(world, "GET", f"{path}?cursor=" + "a" * 4001)
        assert (status, problem["field"]) == (422, "cursor")
        assert len(problem["detail"]) < 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"source": {"bucket": "docs"}, "collection": "a", "collection": "b"}', "the name 'collection' twice"),
        (b'{"failure_budget": {"max_fraction": NaN}}', "NaN is not a number"),
        (b'{"failure_budget": {"max_fraction": -Infinity}}', "-Infinity is not a number"),
        (b'{"parallelism": 1' + b"0" * 5000 + b"}", "a number that is too long"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ('{"source": {"bucket": "docs"}}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "nested too deeply"),
        (b"{'a': 1}", "at character 1"),
    ],
)
async def test_a_body_that_parsers_read_differently_is_no_json(world: World, body: bytes, reason: str) -> None:
    """422 that says why, whatever the route."""
    for method, path in (
        ("POST", "/ray/jobs"),
        ("POST", "/search"),
        ("PUT", "/drain"),
        ("POST", "/aliases/a/rollback"),
    ):
        status, problem = await send(world, method, path, content=body, headers=JSON)
        assert (status, problem["code"], problem["errors"][0]["code"]) == (422, "validation_error", "json_invalid")
        assert reason in problem["detail"]
        assert len(problem["detail"]) < 300


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"1e30", b"9" * 30])
async def test_a_number_beyond_what_json_carries_exactly_is_refused(world: World, number: bytes) -> None:
    """422 with the field, also for those that a parser reads as infinite."""
    for field in (b"max_runtime_s", b"parallelism"):
        body = b'{"source": {"bucket": "docs"}, "collection": "a", "' + field + b'": ' + number + b"}"
        status, problem = await send(world, "POST", "/ray/jobs", content=body, headers=JSON)
        assert (status, problem["field"]) == (422, field.decode())


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "text/json", "multipart/form-data; boundary=x", None],
)
async def test_a_body_of_another_media_type_is_not_read(world: World, media_type: str | None) -> None:
    """415 for every route: pages of other sites cannot send JSON without asking."""
    headers = {} if media_type is None else {"content-type": media_type}
    for method, path in (
        ("POST", "/ray/jobs"),
        ("POST", "/search"),
        ("PUT", "/drain"),
        ("POST", "/aliases/a/rollback"),
    ):
        status, problem = await send(world, method, path, content=orjson.dumps(BODY), headers=headers)
        assert (status, problem["code"]) == (415, "not_json"), path


async def test_a_job_may_not_run_until_after_the_last_date(world: World) -> None:
    """The dispatcher failed at every round when it computed when such a job is overdue."""
    status, problem = await send(world, "POST", "/ray/jobs", json={**BODY, "max_runtime_s": 2**53 - 1})
    assert (status, problem["field"]) == (422, "max_runtime_s")
    async with world.serve() as plane:
        job_id = await plane.submit(collection="other", max_runtime_s=10_000_000_000)
        await plane.look()
        world.engine.start(job_id)
        await plane.look()
        assert (await plane.job(job_id))["state"] == "running"
