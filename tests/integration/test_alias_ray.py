"""A model change behind an alias on Ray, while somebody searches all the time: no gap and no mixture."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from support.platform_world import Platform

MODELS = ("hash-384", "hash-768")


def ask(collection: str) -> dict[str, Any]:
    return {"collection": collection, "query": "blue paragraph 3", "limit": 3}


def hits_of(found: dict[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """Ids and scores by store: another model gives other scores, and for such texts another order."""
    return {
        store: [(hit["point_id"], round(hit["score"], 3)) for hit in hits] for store, hits in found["results"].items()
    }


@dataclass
class Searcher:
    """Searches one alias without a pause until it is stopped; keeps every answer."""

    url: str
    alias: str
    stopped: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            while not self.stopped.is_set():
                answer = http.post("/search", json=ask(self.alias))
                self.answers.append((answer.status_code, answer.json()))

    def seen(self) -> list[str]:
        """The collections that answered, in order, without repetition."""
        names = [found["collection"] for _, found in self.answers]
        return [name for name, before in zip(names, [None, *names], strict=False) if name != before]


@contextmanager
def searching(platform: Platform, alias: str) -> Iterator[Searcher]:
    searcher = Searcher(str(platform.http.base_url), alias)
    thread = threading.Thread(target=searcher.run)
    thread.start()
    try:
        yield searcher
    finally:
        searcher.stopped.set()
        thread.join()


def test_a_model_change_behind_an_alias_leaves_no_gap(platform: Platform) -> None:
    """Every search is answered whole by one version and its model; then back, and the former version dropped."""
    platform.upload("docs", [(f"blue/{i}.txt", f"blue paragraph {i}, and what it says".encode()) for i in range(12)])
    request = {"source": {"bucket": "docs", "prefix": "blue/"}, "alias": "blue"}
    first = platform.run(**request)
    assert first["state"] == "succeeded", first
    refused = platform.http.post(
        "/ray/jobs",
        json={"source": request["source"], "collection": "blue", "embedding": {"model": MODELS[1]}},
    )
    assert refused.status_code == 409
    assert all(model in refused.json()["detail"] for model in MODELS)
    assert "alias" in refused.json()["hint"]
    expected = {first["collection"]: hits_of(platform.http.post("/search", json=ask(first["collection"])).json())}
    with searching(platform, "blue") as searcher:
        second = platform.run(**request, embedding={"model": MODELS[1]})
        assert second["state"] == "succeeded", second
        rolled_back = platform.http.post("/aliases/blue/rollback").json()
        again = platform.http.post("/aliases/blue/rollback").json()
        pruned = platform.http.delete("/aliases/blue/versions", params={"keep": 0}).json()
    old, new = first["collection"], second["collection"]
    assert (rolled_back["collection"], again["collection"], again["settled"]) == (old, new, True)
    assert pruned["dropped"] == [old]
    assert {view["agrees"] for view in pruned["stores"].values()} == {True}
    expected[new] = hits_of(platform.http.post("/search", json=ask(new)).json())
    assert expected[old] != expected[new]
    check_answers(searcher, {old: MODELS[0], new: MODELS[1]}, expected)
    assert searcher.seen()[0] == old
    assert searcher.seen()[-1] == new
    check_stores(platform, old, new)


def check_answers(searcher: Searcher, models: dict[str, str], expected: dict[str, Any]) -> None:
    """Each answer is exactly what the one collection that it names answers, in both stores, by that one's model."""
    assert len(searcher.answers) > 20
    for status, found in searcher.answers:
        assert status == 200, found
        assert found["alias"] == "blue"
        assert found["model"] == models[found["collection"]]
        assert found["errors"] == {}
        assert hits_of(found) == expected[found["collection"]]


def check_stores(platform: Platform, old: str, new: str) -> None:
    """The official clients find the alias at the new version, and nothing of the old one."""
    client = platform.qdrant()
    names = [collection.name for collection in client.get_collections().collections]
    assert new in names
    assert old not in names
    assert {a.alias_name: a.collection_name for a in client.get_aliases().aliases}["blue"] == new
    assert client.count("blue").count == 12
    client.close()
    with platform.weaviate() as other:
        assert other.alias.get(alias_name="Blue").collection == new[0].upper() + new[1:]
        assert not other.collections.exists(old[0].upper() + old[1:])
        assert other.collections.use("Blue").aggregate.over_all(total_count=True).total_count == 12
    assert platform.http.get(f"/collections/{old}").status_code == 404
    assert platform.http.get("/collections/blue").json()["name"] == new
