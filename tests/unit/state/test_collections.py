"""Collections in the state store: contracts, names, open plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.domain.spec import Chunking, CollectionContract, StoreName
from ingestion_engine.state.collections import (
    close_plan,
    compare_contract,
    create_contract,
    find_name_collision,
    list_contracts,
    list_open_plans,
    open_plan,
    read_contract,
)
from support.faulty_state import FaultyStore


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return LocalStateStore(f"file://{tmp_path}/state")


def contract(collection: str = "handbook", **changes: Any) -> CollectionContract:
    made = CollectionContract(
        collection=collection,
        stores=(StoreName.QDRANT, StoreName.WEAVIATE),
        model="all-minilm",
        model_digest="sha256:1",
        dimension=384,
        embedding_id="e1",
        prefix="",
        query_prefix="",
        options={},
        chunking=Chunking(),
        created_at="2026-01-01T00:00:00Z",
        created_by="job-a",
    )
    return made.model_copy(update=changes)


def test_the_first_contract_stays(store: StateStore) -> None:
    """Of two jobs that create a collection, both get what the first one wrote."""
    assert read_contract(store, "handbook") is None
    first = contract()
    assert create_contract(store, first) == first
    assert create_contract(store, contract(created_by="job-b", dimension=768)) == first
    assert read_contract(store, "handbook") == first


def test_an_unreadable_contract_is_fatal(store: StateStore) -> None:
    """A contract of another format is never taken for a missing one."""
    store.put("collections/handbook/collection.json", b'{"format": 2}')
    for call in (lambda: read_contract(store, "handbook"), lambda: create_contract(store, contract())):
        with pytest.raises(FatalError) as error:
            call()
        assert error.value.code == "state_corrupt"


def test_who_and_when_and_the_order_of_stores_do_not_matter() -> None:
    """A later job agrees with a contract that says the same of the points."""
    stores = (StoreName.WEAVIATE, StoreName.QDRANT)
    compare_contract(contract(), contract(created_at="2027-01-01T00:00:00Z", created_by="job-b", stores=stores))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"stores": (StoreName.QDRANT,)}, {"stores"}),
        ({"model": "nomic", "model_digest": "sha256:2", "embedding_id": "e2"}, {"model", "model_digest"}),
        ({"model_digest": "sha256:2", "embedding_id": "e2"}, {"model_digest"}),
        ({"options": {"num_ctx": 512}, "embedding_id": "e2"}, {"options.num_ctx"}),
        ({"embedding_id": "e2"}, {"embedding_id"}),
        ({"chunking": Chunking(max_chars=800)}, {"chunking.max_chars"}),
        ({"query_prefix": "q: "}, {"query_prefix"}),
    ],
)
def test_a_difference_is_named_with_both_values(changes: dict[str, Any], names: set[str]) -> None:
    """The error says what the collection has, what the job has, and nothing that merely follows from it."""
    with pytest.raises(FatalError) as error:
        compare_contract(contract(), contract(**changes))
    assert error.value.code == "contract_mismatch"
    assert set(error.value.context["differences"]) == names
    for name, values in error.value.context["differences"].items():
        assert values["existing"] != values["wanted"]
        assert f"{name} is {values['existing']!r}, the job has {values['wanted']!r}" in error.value.message
    assert "alias" in error.value.hint


def test_collections_are_listed_by_their_contracts(store: StateStore) -> None:
    """What else lies under a collection's folder is no collection."""
    for name in ("b", "a"):
        create_contract(store, contract(name))
    store.put("collections/half/lease.json", b"{}")
    store.put("collections/a/objects/collection.json", b"{}")
    assert list_contracts(store) == ["a", "b"]


def test_names_collide_without_case(store: StateStore) -> None:
    """Collections and aliases share one namespace; a name never collides with itself."""
    create_contract(store, contract("Handbook"))
    store.put("alias/latest.json", b"{}")
    assert find_name_collision(store, "handbook") == "Handbook"
    assert find_name_collision(store, "LATEST") == "latest"
    for name in ("Handbook", "latest", "handbook2", "hand"):
        assert find_name_collision(store, name) is None


def test_open_plans_come_by_epoch_until_they_are_closed(store: StateStore) -> None:
    """Recovery appends the oldest outcome first, so that the newest is true."""
    open_plan(store, "docs", "job-b", 1, {"epoch": 3})
    open_plan(store, "docs", "job-a", 2, {"epoch": 7})
    open_plan(store, "docs", "job-c", 1, {"epoch": 5, "fingerprint": "f"})
    open_plan(store, "docs2", "job-d", 1, {"epoch": 1})
    assert [(job, data["epoch"], data["attempt"]) for job, data in list_open_plans(store, "docs")] == [
        ("job-b", 3, 1),
        ("job-c", 5, 1),
        ("job-a", 7, 2),
    ]
    for _ in range(2):
        close_plan(store, "docs", "job-c")
    assert [job for job, _ in list_open_plans(store, "docs")] == ["job-b", "job-a"]


def test_an_attempt_closes_only_its_own_plan(store: StateStore) -> None:
    """A zombie that ends late does not close its successor's plan."""
    open_plan(store, "docs", "job-a", 1, {})
    open_plan(store, "docs", "job-a", 2, {})
    close_plan(store, "docs", "job-a", 1)
    assert [data["attempt"] for _, data in list_open_plans(store, "docs")] == [2]
    close_plan(store, "docs", "job-a", 2)
    assert list_open_plans(store, "docs") == []


def test_a_contract_costs_one_request(store: StateStore) -> None:
    """Creating writes once; finding one there reads once more."""
    counting = FaultyStore(store)
    create_contract(counting, contract())
    assert (counting.writes, counting.reads) == (1, 0)
    create_contract(counting, contract())
    assert (counting.writes, counting.reads) == (2, 1)
