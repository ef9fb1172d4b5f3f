"""What only the embedded Weaviate promises: what it refuses, what survives it, which indexes it uses."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from weaviate.exceptions import WeaviateInsertManyAllFailedError, WeaviateQueryError
from weaviate.proto.v1 import base_pb2

from ingestion_devstack.weaviate.filters import compile_filter
from ingestion_devstack.weaviate.records import NewObject
from ingestion_devstack.weaviate.schema import complete_class
from ingestion_devstack.weaviate.storage import Collection
from ingestion_devstack.weaviate.vectors import VectorSpace
from support import servers
from support.weaviate_client_side import Target, by, embedded, insert, item, make, number, only_embedded, uid

# The only way to ask this client for an unnamed vector, which older collections have, is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Dep024:DeprecationWarning")


def test_what_the_stand_in_lacks_is_refused_by_name(target: Target, http: httpx.Client, shelf: Any) -> None:
    only_embedded(target)
    for call, feature in (
        (lambda: shelf.query.bm25("apple"), "bm25"),
        (lambda: shelf.query.hybrid("apple"), "hybrid"),
        (lambda: shelf.query.near_text("apple"), "near_text"),
        (lambda: shelf.query.near_vector([1.0, 0.0, 0.0], auto_limit=1), "autocut"),
    ):
        with pytest.raises(WeaviateQueryError, match=f"{feature}.* is not supported by the embedded Weaviate"):
            call()
    response = http.post("/graphql", json={"query": "{}"})
    assert response.status_code == 501
    assert "not supported by the embedded Weaviate" in response.json()["error"][0]["message"]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_everything_acknowledged_is_there_after_a_restart(tmp_path: Path, end: str) -> None:
    """SIGTERM ends with exit code 0; nothing is lost by it or by SIGKILL: classes, aliases, objects, deletions."""
    with servers.stopping(servers.start_weaviate(tmp_path)) as server:
        with embedded(server).connect() as before:
            collection = make(before, "Kept")
            make(before, "Dropped")
            before.alias.create(alias_name="Other", target_collection="Kept")
            insert(collection, *(item(n, [1.0, float(n)], epoch=n, object_id=uid(n)) for n in range(1, 301)))
            collection.data.delete_many(where=by("epoch").greater_than(200))
            collection.data.update(uid(1), properties={"key": "changed"})
            before.collections.delete("Dropped")
            insert(collection, item(500, [1.0, 500.0], epoch=500))
            if end == "kill":
                server.kill()
        if end == "stop":
            assert server.stop() == 0
    with servers.stopping(servers.start_weaviate(tmp_path)) as server, embedded(server).connect() as after:
        assert not after.collections.exists("Dropped")
        collection = after.collections.use("Other")
        assert len(collection) == 201
        assert [number(o) for o in collection.query.near_vector([1.0, 500.0], limit=1).objects] == [500]
        assert collection.query.fetch_object_by_id(uid(1)).properties["key"] == "changed"
        assert [number(o) for o in collection.query.fetch_objects(filters=by("object_id").equal(uid(7))).objects] == [7]
        with pytest.raises(WeaviateInsertManyAllFailedError, match="Existing nodes have vectors with length 2"):
            insert(collection, item(600, [1.0], epoch=1))


def _stored(tmp_path: Path) -> Collection:
    properties = [{"name": "object_id", "dataType": ["uuid"]}, {"name": "epoch", "dataType": ["int"]}]
    collection = Collection(tmp_path / "c.db", complete_class({"class": "C", "properties": properties}))
    collection.put([NewObject(UUID(int=n).bytes, {"object_id": uid(n % 50), "epoch": n}, {}) for n in range(1, 2001)])
    return collection


def _filter(property_name: str, operator: int, **value: Any) -> Any:
    target = base_pb2.FilterTarget(property=property_name)
    return base_pb2.Filters(operator=operator, target=target, **value)  # type: ignore[arg-type]


def test_filters_on_an_object_use_its_index_and_make_no_other(tmp_path: Path) -> None:
    """`object_id = X and epoch < n` is a search in one index; `epoch < n` alone earns one when first asked."""
    collection = _stored(tmp_path)
    pb = base_pb2.Filters
    older = _filter("epoch", pb.OPERATOR_LESS_THAN, value_int=1000)
    same = _filter("object_id", pb.OPERATOR_EQUAL, value_text=uid(7))
    both = pb(operator=pb.OPERATOR_AND, filters=[older, same])
    indexes = []
    for tree, count in ((both, 20), (older, 999)):
        where = compile_filter(tree, collection.definition, collection.columns)
        assert collection.count(where) == count
        with sqlite3.connect(tmp_path / "c.db") as db:
            plan = db.execute(f"EXPLAIN QUERY PLAN SELECT count(*) FROM objects AS o WHERE {where.sql}", where.params)
            details = " ".join(row[3] for row in plan)
        assert "SEARCH o USING" in details
        indexes.append(set(collection._indexed))
    collection.close()
    assert collection.columns["epoch"] not in indexes[0]
    assert collection.columns["epoch"] in indexes[1]


def test_vector_space_equals_brute_force_through_changes() -> None:
    """After any mix of puts, replacements and drops a search ranks what is left as a plain computation does."""
    rng = np.random.default_rng(3)
    space, left = VectorSpace(8, "cosine"), {}
    for step in range(2000):
        doc = int(rng.integers(0, 400))
        if step % 3 == 2:
            space.drop([doc])
            left.pop(doc, None)
        else:
            left[doc] = rng.standard_normal(8).astype(np.float32)
            space.put(doc, left[doc])
    query = rng.standard_normal(8).astype(np.float32)
    exact = {
        doc: 1 - float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)) for doc, vector in left.items()
    }
    ranked = sorted(exact, key=lambda doc: exact[doc])
    assert [doc for doc, _ in space.search(query, 20, None, None)] == ranked[:20]
    assert [doc for doc, _ in space.search(query, 500, 0.3, None)] == [doc for doc in ranked if exact[doc] <= 0.3]
    allowed = ranked[5:15]
    found = space.search(query, 4, None, [*allowed, 10_000])
    assert [doc for doc, _ in found] == allowed[:4]
    assert [distance for _, distance in found] == pytest.approx([exact[doc] for doc in allowed[:4]], abs=1e-5)
