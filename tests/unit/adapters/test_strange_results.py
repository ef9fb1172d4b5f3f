"""A response of Qdrant whose result has another form than it documents is an error of the store, not of the program."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import orjson
import pytest

from ingestion_engine.adapters.qdrant.store import QdrantStore
from ingestion_engine.adapters.transport import HttpClient, Response
from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ports import SearchFilter


async def scroll(store: QdrantStore) -> object:
    return [point async for point in store.scroll("notes", with_vectors=True)]


READS: dict[str, Callable[[QdrantStore], Awaitable[object]]] = {
    "list": lambda store: store.list_collections(),
    "list aliases": lambda store: store.list_aliases(),
    "count": lambda store: store.count("notes"),
    "scroll": scroll,
    "search": lambda store: store.search("notes", np.ones(3, np.float32), limit=1, where=SearchFilter()),
}
NAMES = ("collections", "aliases", "points", "count")
RESULTS: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    dict.fromkeys(NAMES, "text"),
    {name: [1] for name in NAMES},
    {name: [{"id": "a", "score": None, "vector": "text"}] for name in NAMES},
)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("result", RESULTS, ids=str)
async def test_a_result_of_another_form(read: str, result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = orjson.dumps({"result": result, "status": "ok", "time": 0.1})

    async def respond(_client: HttpClient, _method: str, _base: str, _path: str, **_: Any) -> Response:
        return Response(200, body, {})

    monkeypatch.setattr(HttpClient, "request", respond)
    store = QdrantStore("http://127.0.0.1:9")
    with pytest.raises(TransientError) as caught:
        await READS[read](store)
    assert caught.value.code == "qdrant_answer_invalid"
    await store.close()
