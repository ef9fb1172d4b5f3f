"""Requests that a client repeats with an ``Idempotency-Key``, also across an upgrade of the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import create_model

from ingestion_engine.domain.ids import hash_json
from ingestion_engine.domain.spec import Chunking, Embedding, FailureBudget, JobRequest, Part, Source
from ingestion_engine.runtime.timestamps import utc_now
from support.control import BODY, World

FORMER_HASHES: dict[str, tuple[dict[str, Any], str]] = {
    "smallest": (BODY, "8ada8cbe1fb6761fe229d5cf2d784f4cb25902c6de87b3d135b7f2b3305d3447"),
    "everything": (
        {
            "source": {
                "bucket": "docs",
                "prefix": "handbook/",
                "include": ["**/*.md", "**/*.pdf"],
                "exclude": ["old/**"],
            },
            "alias": "live",
            "collection": "handbook",
            "stores": ["qdrant"],
            "mode": "full",
            "delete_missing": False,
            "allow_mass_delete": True,
            "retry_failed": True,
            "embedding": {"model": "all-minilm", "prefix": "a: ", "query_prefix": "b: "},
            "chunking": {"max_chars": 900, "overlap_chars": 90},
            "parallelism": 7,
            "failure_budget": {"max_fraction": 0.25, "min_objects": 3},
            "max_runtime_s": 3600,
            "metadata": {"team": "docs"},
        },
        "b2cf9837091022b02cbf6896f749b3476cdfbae3bcd52fc43258a2baa1786838",
    ),
    "a later field": (
        {**BODY, "priority": 9},
        "4b7332142b75b3241a8a3fc2035f54f3974f45b48bb75f2bdc75bd146bc2d1be",
    ),
}
"""Requests, and what release 0.1.0 has stored in ``body_hash`` for them on Ray."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("name", FORMER_HASHES)
async def test_a_request_repeated_after_an_upgrade_finds_the_job_of_the_former_release(world: World, name: str) -> None:
    """Its row has the hash that the former release has computed."""
    body, body_hash = FORMER_HASHES[name]
    row = {"id": "job-former", "engine": "ray", "collection": "notes", "attempt": 1, "owner": "", "request": "{}"}
    row |= {"state": "queued", "body_hash": body_hash, "idempotency_key": "monday", "created_at": utc_now()}
    async with world.serve() as plane:
        async with plane.services.store.database.writing() as connection:
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            await connection.execute(sa.text(f"INSERT INTO jobs ({names}) VALUES ({marks})"), row)
        answer = await plane.client.post("/ray/jobs", json=body, headers={"Idempotency-Key": "monday"})
        assert (answer.status_code, answer.json()["job_id"]) == (202, "job-former")
        assert answer.headers["idempotency-replayed"] == "true"
        other = await plane.client.post(
            "/ray/jobs", json={**body, "max_runtime_s": 1}, headers={"Idempotency-Key": "monday"}
        )
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize("extended", [Source, Embedding, Chunking, FailureBudget, JobRequest])
def test_a_field_that_a_later_release_adds_leaves_the_hash(extended: type[Part]) -> None:
    """In the request itself and in each of its parts; unless the request uses it."""
    later: Any = create_model("Later", __base__=extended, dry=(bool, False), labels=(tuple[str, ...], ()))
    values: dict[str, Any] = {Source: {"bucket": "docs"}, JobRequest: BODY}.get(extended, {})  # type: ignore[call-overload] # keys are types
    stored = extended.model_validate(values).model_dump(mode="json")
    assert hash_json(later.model_validate(values).model_dump(mode="json")) == hash_json(stored)
    assert later.model_validate({**values, "dry": True}).model_dump(mode="json") == {**stored, "dry": True}


def test_all_fields_of_the_first_release_are_stored() -> None:
    """Their names exist, so that no one is forgotten."""
    for part in (Source, Embedding, Chunking, FailureBudget, JobRequest):
        assert part.first_fields <= part.model_fields.keys()
