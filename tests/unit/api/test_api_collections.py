"""Routes of collections, and jobs on existing collections: verify, repair, remove."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.records import ReadWarning, RowState, TableRow, dump_warnings
from ingestion_engine.domain.spec import Chunking, JobRequest, StoreName
from ingestion_engine.state.collections import write_verified
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from support.control import BODY, World, bearer, make_collection, write_keys

TERMS = {"model": "bge", "prefix": "doc: ", "chunking": Chunking(max_chars=300, overlap_chars=10), "bucket": "docs"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def write_table(world: World, states: dict[str, str]) -> None:
    """Write objects with two chunks each to the object table of ``notes``."""
    rows = [
        TableRow(
            key, "e", 1, "2026-01-01T00:00:00Z", "o", RowState(state), None, None, False, "f", 2, "", "", 1, "j", "t"
        )
        for key, state in sorted(states.items(), key=lambda item: item[0].encode())
    ]
    ObjectTable(world.state, "notes").append_run(rows, epoch=1, job_id="job-x")


async def test_a_collection_is_shown_whole(world: World, tmp_path: Path) -> None:
    """Contract, objects by state, chunks, points in each store, newest job that the key may see, last comparison."""
    make_collection(world, bucket="docs")
    write_table(world, {"a": "present", "b": "failed", "c": "removed"})
    keys = write_keys(tmp_path, {"name": "admin"}, {"name": "team", "buckets": ["docs"], "collections": ["notes"]})
    async with world.serve(api={"keys_file": keys}, headers=bearer("admin")) as plane:
        one = (await plane.client.get("/collections/notes")).json()
        assert one["contract"]["bucket"] == "docs"
        assert one["objects"] == {"present": 1, "failed": 1, "with_warnings": 0, "chunks": 4}
        assert {name: store["points"] for name, store in one["stores"].items()} == {"qdrant": 3, "weaviate": 3}
        assert (one["last_job"], one["verified"]) == (None, None)
        body = {"source": {"bucket": "docs"}, "collection": "notes", "embedding": {"query_prefix": "find: "}}
        mine = (await plane.client.post("/ray/jobs", json=body, headers=bearer("team"))).json()["job_id"]
        newest = (await plane.client.post("/ray/jobs", json={**body, "mode": "plan"})).json()["job_id"]
        await plane.client.post(f"/jobs/{newest}/cancel")
        write_verified(world.state, "notes", "job-v", "2026-01-01T00:00:00Z", 3)
        one = (await plane.client.get("/collections/notes")).json()
        last = one["last_job"]
        assert (last["job_id"], last["state"], last["mode"]) == (newest, "canceled", "plan")
        assert last["finished_at"] is not None
        assert one["verified"] == {"job_id": "job-v", "at": "2026-01-01T00:00:00Z", "differences": 3}
        theirs = (await plane.client.get("/collections/notes", headers=bearer("team"))).json()
        assert (theirs["last_job"]["job_id"], theirs["last_job"]["finished_at"]) == (mine, None)


async def test_objects_come_by_key_in_every_state(world: World) -> None:
    """Keys are ordered by their UTF-8 bytes; the last page is not empty."""
    make_collection(world)
    states = {
        key: "failed" if "f" in key else "present" for key in ("a", "a/1", "a/f", "a/é", "a/\uffff", "a/😀", "f", "z")
    }
    write_table(world, {**states, "a/gone": "removed"})
    ordered = sorted(states, key=str.encode)
    async with world.serve() as plane:
        for prefix in ("", "a/", "a/f", "q"):
            for state in (None, "present", "failed"):
                expected = [k for k in ordered if k.startswith(prefix) and state in {None, states[k]}]
                for limit in (1, 2, max(1, len(expected)), 100):
                    found: list[str] = []
                    pages = 0
                    params: dict[str, Any] = {"prefix": prefix, "limit": limit} | ({"state": state} if state else {})
                    while "cursor" not in params or params["cursor"] is not None:
                        page = (await plane.client.get("/collections/notes/objects", params=params)).json()
                        assert all(item["state"] == states[item["key"]] for item in page["items"])
                        found += [item["key"] for item in page["items"]]
                        params["cursor"] = page["next_cursor"]
                        pages += 1
                    assert found == expected
                    assert pages == max(1, -(-len(expected) // limit))
        refused = await plane.client.get("/collections/notes/objects", params={"state": "removed"})
        assert refused.status_code == 422


async def test_objects_show_what_was_left_out(world: World) -> None:
    """By code, and only those objects on request; a row of an earlier release has none."""
    make_collection(world)
    write_table(world, {"a": "present", "b": "present", "c": "failed"})
    warnings = [ReadWarning("lines_skipped", 2, "Line 7 is not JSON."), ReadWarning("part_unreadable", 1, "")]
    row = next(row for row in ObjectTable(world.state, "notes").scan() if row.key == "b")
    changed = dataclasses.replace(row, warnings=dump_warnings(warnings))
    ObjectTable(world.state, "notes").append_run([changed], epoch=1, job_id="job-y")
    async with world.serve() as plane:
        items = (await plane.client.get("/collections/notes/objects")).json()["items"]
        some = (await plane.client.get("/collections/notes/objects", params={"warnings": "true"})).json()
    expected = [
        {"code": "lines_skipped", "count": 2, "detail": "Line 7 is not JSON."},
        {"code": "part_unreadable", "count": 1, "detail": ""},
    ]
    assert {item["key"]: item["warnings"] for item in items} == {"a": [], "b": expected, "c": []}
    assert all(item.keys() == TableRow.__dataclass_fields__.keys() for item in items), "as before, and nothing more"
    assert (some["items"], some["next_cursor"]) == ([items[1]], None)


@pytest.mark.parametrize("mode", ["verify", "repair"])
async def test_jobs_on_what_is_there_take_their_terms_from_the_collection(world: World, mode: str) -> None:
    """Model, stores and chunking come from the collection; other values are refused; no collection is a 404."""
    async with world.serve() as plane:
        answer = await plane.client.post("/ray/jobs", json={**BODY, "mode": mode})
        assert (answer.status_code, answer.json()["code"]) == (404, "collection_not_found")
        make_collection(world, stores=(StoreName.QDRANT,), **{**TERMS, "model": "all-minilm"})
        job = await plane.job(await plane.submit(mode=mode))
        request = JobRequest.model_validate(job["request"])
        assert (request.stores, request.embedding.model, request.embedding.prefix) == (
            (StoreName.QDRANT,),
            "all-minilm",
            "doc: ",
        )
        assert (request.chunking, request.embedding.query_prefix) == (TERMS["chunking"], "find: ")
        await plane.look()
        spec = Ledger(world.state, job["job_id"]).read_spec()
        assert (spec.request, spec.model) == (request, "all-minilm")
        for field, value in [
            ("source", {"bucket": "other"}),
            ("chunking", {"max_chars": 900}),
            ("stores", ["weaviate"]),
        ]:
            answer = await plane.client.post("/ray/jobs", json={**BODY, "mode": mode, field: value})
            assert (answer.status_code, answer.json()["code"]) == (409, "contract_mismatch")


async def test_what_embeds_nothing_needs_no_model(world: World) -> None:
    """A missing model or bucket prevents neither a comparison nor a removal; a repair may have to embed."""
    make_collection(world, **{**TERMS, "model": "missing", "bucket": "gone"})
    async with world.serve() as plane:
        for mode, status in [("repair", 422), ("verify", 202)]:
            answer = await plane.client.post("/ray/jobs", json={**BODY, "source": {"bucket": "gone"}, "mode": mode})
            assert answer.status_code == status, answer.text
            assert status == 202 or answer.json()["code"] == "model_not_found"
        assert (await plane.client.delete("/collections/notes/objects", params={"prefix": "a/"})).status_code == 202


async def test_objects_are_removed_by_a_job(world: World) -> None:
    """202 with a job of mode delete and the contract of the collection; the same idempotency key creates one job."""
    make_collection(world, **TERMS)
    async with world.serve() as plane:
        once = {"Idempotency-Key": "once"}
        answers = [
            await plane.client.delete("/collections/notes/objects", params={"prefix": "2023/"}, headers=once)
            for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json() == answers[1].json()
        job = await plane.job(answers[0].json()["job_id"])
        assert answers[0].headers["location"] == f"/jobs/{job['job_id']}"
        assert (job["mode"], job["engine"], job["collection"]) == ("delete", "ray", "notes")
        request = JobRequest.model_validate(job["request"])
        assert (request.source.bucket, request.source.prefix) == ("docs", "2023/")
        assert (request.embedding.model, request.chunking) == ("bge", TERMS["chunking"])
        everything = await plane.client.delete("/collections/notes/objects", params={"prefix": "", "all": "true"})
        assert everything.status_code == 202


@pytest.mark.parametrize(
    ("collection", "params", "status", "code"),
    [
        ("notes", {}, 422, "validation_error"),
        ("notes", {"prefix": ""}, 422, "validation_error"),
        ("notes", {"prefix": "a", "all": "perhaps"}, 422, "validation_error"),
        ("notes", {"prefix": "a", "engine": "spark"}, 501, "engine_not_configured"),
        ("none", {"prefix": "a"}, 404, "collection_not_found"),
        ("old", {"prefix": "a"}, 409, "bucket_not_known"),
        ("foreign", {"prefix": "a"}, 404, "collection_not_found"),
        ("secret", {"prefix": "a"}, 403, "not_allowed"),
    ],
)
async def test_a_removal_that_cannot_be_made_says_why(
    world: World, tmp_path: Path, collection: str, params: dict[str, str], status: int, code: str
) -> None:
    """A missing prefix, a collection of another key and an unknown bucket are refused."""
    make_collection(world, **TERMS)
    make_collection(world, "old")
    make_collection(world, "foreign", bucket="theirs")
    make_collection(world, "secret", bucket="docs")
    key = {"name": "team", "buckets": ["docs"], "collections": ["notes", "none", "old", "foreign"]}
    async with world.serve(api={"keys_file": write_keys(tmp_path, key)}, headers=bearer("team")) as plane:
        answer = await plane.client.delete(f"/collections/{collection}/objects", params=params)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert (await plane.client.get("/jobs")).json()["items"] == []


@pytest.mark.parametrize("path", ["/ray/jobs", "/spark/jobs", "/spark/manifest"])
async def test_a_removal_is_not_posted(world: World, path: str) -> None:
    """The hint names the route to use."""
    make_collection(world, **TERMS)
    async with world.serve() as plane:
        answer = await plane.client.post(path, json={**BODY, "mode": "delete"})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
            422,
            "mode_not_submittable",
            "mode",
        )
        assert "DELETE /collections/notes/objects" in answer.json()["hint"]


async def test_differences_are_among_the_failures(world: World) -> None:
    """Each differing object has the number of points by store and kind."""
    make_collection(world, **TERMS)
    item = {"key": "a", "code": "points_differ", "reason": "r", "differences": {"qdrant": {"missing": 2, "payload": 1}}}
    async with world.serve() as plane:
        job_id = await plane.submit(mode="verify")
        Ledger(world.state, job_id).write_failures("a01-00001", [item])
        page = (await plane.client.get(f"/jobs/{job_id}/failures")).json()
        assert page["items"][0]["differences"] == item["differences"]


async def test_searches_are_narrowed_in_every_store(world: World) -> None:
    """Key prefix, media type and metadata must all match, byte for byte."""
    make_collection(world)
    for store in (world.qdrant, world.weaviate):
        for number, point in enumerate(store.collections["notes"].values()):
            fields = {
                "key": f"a*/{number}",
                "metadata": {"team": "docs" if number else "Docs"},
                "content_type": "text/plain",
            }
            point.payload.update(fields)
    async with world.serve() as plane:

        async def found(**conditions: Any) -> dict[str, list[str]]:
            body = {"collection": "notes", "query": "cats", "filter": conditions}
            answer = (await plane.client.post("/search", json=body)).json()
            return {name: sorted(hit["key"] for hit in hits) for name, hits in answer["results"].items()}

        both = {name: ["a*/1", "a*/2"] for name in ("qdrant", "weaviate")}
        assert await found(key_prefix="a*/", metadata={"team": "docs"}, content_type="text/plain") == both
        assert await found(key_prefix="a?") == {"qdrant": [], "weaviate": []}
        assert await found(key_prefix="a*/1", metadata={"team": "Docs"}) == {"qdrant": [], "weaviate": []}


async def test_a_collection_whose_job_has_not_ended_names_the_job(world: World, tmp_path: Path) -> None:
    """By collection and by alias, in search and in detail; not for a key that may not see the job."""
    keys = write_keys(tmp_path, {"name": "admin"}, {"name": "team", "buckets": ["docs"]})
    async with world.serve(api={"keys_file": keys}, headers=bearer("admin")) as plane:
        body = {"source": {"bucket": "docs"}, "collection": "fresh", "alias": "live"}
        job_id = (await plane.client.post("/ray/jobs", json=body)).json()["job_id"]
        for name in ("fresh", "live"):
            for answer in (
                await plane.client.post("/search", json={"collection": name, "query": "cats"}),
                await plane.client.get(f"/collections/{name}"),
            ):
                problem = answer.json()
                assert (answer.status_code, problem["code"], problem["job_id"]) == (404, "collection_not_found", job_id)
                assert f"/jobs/{job_id}/events" in problem["hint"]
        assert "job_id" not in (await plane.client.get("/collections/other")).json()
        hidden = await plane.client.get("/collections/fresh", headers=bearer("team"))
        assert (hidden.status_code, "job_id" in hidden.json()) == (404, False)
