"""What version 0.1.0 wrote is read and continued: see `tests/fixtures/state_0_1_0/README.md`."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.records import Point
from ingestion_engine.domain.spec import CollectionContract
from ingestion_engine.state.aliases import read_alias
from ingestion_engine.state.collections import list_open_plans, read_contract, read_verified
from ingestion_engine.state.lease import read_lease
from ingestion_engine.state.ledger import Ledger
from support.doubles import MemoryStore
from support.world import World, balanced

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "state_0_1_0" / "state.zip"
METADATA = {"team": "docs"}
FAILED = {"broken/empty.txt": "empty_document", "broken/nan.txt": "embedding_nan"}
CHANGED = {f"many/{number}.txt" for number in range(4)}
NEW = {f"new/{number}.txt" for number in range(4)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The state directory, the bucket and both stores as version 0.1.0 left them, job-004 cut off in the middle."""
    with zipfile.ZipFile(io.BytesIO(FIXTURE.read_bytes())) as files:
        files.extractall(tmp_path)
    made = World(state=LocalStateStore(f"file://{tmp_path}/state"), jobs=4)  # type: ignore[arg-type]
    for item in orjson.loads((tmp_path / "bucket.json").read_bytes()):
        made.bucket.objects[item["key"]] = (base64.b64decode(item["body"]), item["version"])
        made.bucket.metadata[item["key"]] = item["metadata"]
    made.bucket._version = max(version for _, version in made.bucket.objects.values())
    for store in made.stores.values():
        fill(store, orjson.loads((tmp_path / f"{store.name.value}.json").read_bytes()))
    return made


def fill(store: MemoryStore, held: dict[str, Any]) -> None:
    """Put the points, contracts and aliases of the fixture into a store."""
    for name, points in held["collections"].items():
        made = [Point(PointId(p["id"]), p["payload"], np.array(p["vector"], dtype=np.float32)) for p in points]
        store.collections[name] = {point.id: point for point in made}
    store.contracts |= {name: CollectionContract.model_validate(c) for name, c in held["contracts"].items()}
    store.aliases |= held["aliases"]


@pytest.fixture
def recovered(world: World) -> World:
    """The same after the second attempt of job-004, run by the present code."""
    summary = world.attempt(Ledger(world.state, "job-004"), number=2)
    assert summary is not None
    assert (summary["state"], summary["attempt"], summary["epoch"]) == ("partially_succeeded", 2, 4)
    return world


def payloads(world: World) -> list[dict[PointId, dict[str, Any]]]:
    """Every point's whole payload, in both stores, with its vector."""
    return [
        {p.id: {**p.payload, "vector": p.vector.tolist()} for p in world.points(store)}
        for store in world.stores.values()
    ]


def test_the_fixture_is_what_its_description_says(world: World) -> None:
    """The attempt was cut off between two stores, with reports written and nothing merged."""
    assert [job_id for job_id, _ in list_open_plans(world.state, "notes")] == ["job-004"]
    lease = read_lease(world.state, "notes")
    assert lease is not None
    assert (lease.job_id, lease.epoch, lease.released) == ("job-004", 3, False)
    assert len(list(Ledger(world.state, "job-004").iter_reports())) == 2
    left, right = payloads(world)
    assert right.keys() < left.keys()
    assert world.table().keys().isdisjoint(NEW)


def test_a_cut_off_attempt_is_completed(world: World) -> None:
    """The second attempt embeds only what has no report yet; objects of no partition keep their points untouched."""
    before = payloads(world)[0]
    reported = {r.key for report in Ledger(world.state, "job-004").iter_reports() for r in report.results}
    ledger = Ledger(world.state, "job-004")
    summary = world.attempt(ledger, number=2)
    assert summary is not None
    assert (summary["state"], summary["attempt"], summary["epoch"]) == ("partially_succeeded", 2, 4)
    # The counts at which version 0.1.0 itself arrived.
    counts = summary["counts"]
    assert {name: counts[name] for name in ("retried", "deleted", "done", "failed", "unchanged", "failed_before")} == {
        "retried": 6,
        "deleted": 1,
        "done": 8,
        "failed": 1,
        "unchanged": 9,
        "failed_before": 2,
    }
    assert balanced(summary)
    assert (counts["embed_calls"], world.embedder.calls) == (10, 7)
    unreported = (CHANGED | NEW) - reported
    assert set(world.embedder.texts) <= {text for key in unreported for text in world.texts(key)}
    after = payloads(world)[0]
    untouched = {i for i, p in before.items() if p["key"] not in CHANGED | NEW | {"utf16.txt"}}
    assert len(untouched) > 50
    assert {i: after[i] for i in untouched} == {i: before[i] for i in untouched}
    done_before = {i for i, p in before.items() if p["job_id"] == "job-004" and p["key"] in reported}
    assert done_before
    assert {i: after[i] for i in done_before} == {i: before[i] for i in done_before}
    assert not [p for p in after.values() if p["key"] == "utf16.txt"]
    assert all(world.texts(key) for key in CHANGED | NEW)
    assert list_open_plans(world.state, "notes") == []
    items, cursor = ledger.read_failures(None, 100)
    assert cursor is None
    assert {item["key"]: item["code"] for item in items} == {"broken/late.txt": "empty_document"}


def test_a_sync_completes_what_a_dead_job_left(world: World) -> None:
    """Also another job, which takes the lease over, finishes the open plan; then nothing is left to embed."""
    summary = world.run(metadata=METADATA)
    assert summary["state"] in {"succeeded", "partially_succeeded"}
    assert balanced(summary)
    assert list_open_plans(world.state, "notes") == []
    assert all(world.texts(key) for key in CHANGED | NEW)
    calls = world.embedder.calls
    assert world.run(metadata=METADATA)["counts"]["embed_calls"] == 0
    assert world.embedder.calls == calls


def test_the_next_sync_costs_nothing(recovered: World) -> None:
    """Every object of 0.1.0 is unchanged or failed before: no read, no embed call, no write."""
    before, calls, gets = payloads(recovered), recovered.embedder.calls, recovered.bucket.gets
    counts = recovered.run(metadata=METADATA)["counts"]
    assert (counts["planned"], counts["embed_calls"], counts["bytes_read"]) == (0, 0, 0)
    assert counts["failed_before"] == len(FAILED) + 1
    assert counts["unchanged"] == len(recovered.bucket.objects) - counts["failed_before"]
    assert (recovered.embedder.calls, recovered.bucket.gets) == (calls, gets)
    assert payloads(recovered) == before


def test_verify_and_repair_find_nothing(recovered: World) -> None:
    """Ids, payloads, vectors and digests of 0.1.0 are those that the present code expects; nothing is embedded."""
    before, calls = payloads(recovered), recovered.embedder.calls
    verified = recovered.run(mode="verify")
    assert (verified["state"], verified["counts"]["different"]) == ("succeeded", 0)
    assert verified["counts"]["verified"] > 0
    repaired = recovered.run(mode="repair")
    assert (repaired["state"], repaired["counts"]["repaired"]) == ("succeeded", 0)
    assert recovered.embedder.calls == calls
    assert payloads(recovered) == before


def test_parsing_and_chunking_give_the_same_points(recovered: World) -> None:
    """A full run reads and cuts every object anew, and arrives at the same ids, payloads and vectors."""
    before = payloads(recovered)
    summary = recovered.run(mode="full", metadata=METADATA)
    assert summary["counts"]["done"] == len(recovered.bucket.objects) - len(FAILED) - 1
    own = {"epoch", "job_id", "ingested_at"}
    after = payloads(recovered)
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for point_id, payload in old.items():
            assert {k: v for k, v in new[point_id].items() if k not in own} == {
                k: v for k, v in payload.items() if k not in own
            }


def test_reports_of_former_jobs_can_be_read(world: World) -> None:
    """Summary, progress, plan, reports and failures of a job that ended under 0.1.0."""
    ledger = Ledger(world.state, "job-001")
    summary, progress, plan = ledger.read_summary(), ledger.read_progress(), ledger.read_plan()
    assert summary is not None
    assert progress is not None
    assert plan is not None
    assert summary["state"] == "partially_succeeded"
    assert progress["counts"] == summary["counts"]
    results = [result for report in ledger.iter_reports() for result in report.results]
    assert len(results) == summary["counts"]["listed"] == 16
    assert {r.key: r.error_code for r in results if r.error_code} == FAILED
    planned = [planned.ref.key for partition in ledger.iter_plan() for planned in partition.objects]
    assert sorted(planned) == sorted(result.key for result in results)
    items, _ = ledger.read_failures(None, 100)
    assert {item["key"]: item["code"] for item in items} == FAILED
    assert all(item["reason"] for item in items)
    table = {key: code for key, (_, code) in world.table().items() if code}
    assert table == FAILED


def test_contract_alias_and_verification_are_known(world: World) -> None:
    """What the service shows of a collection."""
    contract = read_contract(world.state, "notes")
    assert contract is not None
    assert (contract.model, contract.dimension, contract.created_by) == ("hash", 8, "job-001")
    alias = read_alias(world.state, "handbook")
    assert alias is not None
    assert (alias.collection, alias.settled) == ("handbook_1", True)
    verified = read_verified(world.state, "notes")
    assert verified is not None
    assert verified["job_id"] == "job-002"


def test_an_alias_moves_on(world: World) -> None:
    """The next version goes behind the alias of 0.1.0, and both stores follow."""
    guide = {"source": {"bucket": "docs", "prefix": "guide/"}, "alias": "handbook"}
    assert world.run(**guide, collection="handbook_2")["state"] == "succeeded"
    alias = read_alias(world.state, "handbook")
    assert alias is not None
    assert (alias.collection, alias.previous) == ("handbook_2", ("handbook_1",))
    assert {store.aliases["handbook"] for store in world.stores.values()} == {"handbook_2"}
