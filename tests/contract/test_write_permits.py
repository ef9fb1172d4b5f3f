"""Writes of a dead attempt end before its successor begins: every request that writes is allowed, and bounded, anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.adapters.qdrant import store as qdrant
from ingestion_engine.adapters.qdrant.store import QdrantStore
from ingestion_engine.adapters.transport import Response
from ingestion_engine.adapters.weaviate import store as weaviate
from ingestion_engine.adapters.weaviate.store import WeaviateStore
from ingestion_engine.domain.errors import LeaseLost, TransientError
from ingestion_engine.domain.ids import ObjectId, PointId
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.state.lease import LeaseCheck, acquire
from support.answering import serving
from support.vector_stores import make_contract, make_point, make_settings

COLLECTION = "permits"
Write = Callable[[VectorStore], Awaitable[object]]


class Fence:
    """A permit over a real lease that a successor takes over before the second request."""

    def __init__(self, root: Path) -> None:
        self.now = 1000.0
        self.state = LocalStateStore(f"file://{root}/state")
        self.take("job-a")
        self.check = LeaseCheck(self.state, COLLECTION, "job-a", 1, grace_s=35.0, clock=lambda: self.now)
        self.granted: list[float] = []

    def take(self, job_id: str) -> None:
        def sleep(seconds: float) -> None:
            self.now += seconds

        clocks = {"clock": lambda: self.now, "sleep": sleep, "wall_clock": lambda: 0.0}
        acquire(self.state, COLLECTION, job_id, 1, ttl_s=30.0, grace_s=35.0, **clocks)

    async def permit(self) -> float:
        if len(self.granted) == 1:
            self.take("job-b")
        self.granted.append(self.check.grant())
        return self.granted[-1]


@pytest.mark.parametrize("name", list(StoreName))
async def test_a_successor_ends_a_write_between_two_requests(
    name: StoreName, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call that needs several requests stops at the first one that its lease no longer covers."""
    for module, limit in ((qdrant, "READ_POINTS"), (weaviate, "PAGE_POINTS")):
        monkeypatch.setattr(module, limit, 1)
    for module in (qdrant, weaviate):
        monkeypatch.setattr(module, "BATCH_POINTS", 1)
    settings = make_settings(request)
    (plain,) = open_stores(settings, [name]).values()
    await plain.drop_collection(COLLECTION)
    await plain.ensure_collection(make_contract(COLLECTION))
    points = [make_point("a", number) for number in range(3)]
    ids = [PointId(point.id) for point in points]
    writes: dict[int, Write] = {
        1: lambda store: store.upsert(COLLECTION, points),
        2: lambda store: store.delete_points(COLLECTION, ids),
    }
    for left, write in writes.items():
        fence = Fence(tmp_path / str(left))
        (store,) = open_stores(settings, [name], permit=fence.permit).values()
        store._batch_points = 1  # type: ignore[attr-defined] - both adapters have it
        with pytest.raises(LeaseLost):
            await write(store)
        assert fence.granted == [34.0], "the first request of a write has nearly the whole grace"
        assert await plain.count(COLLECTION) == left
        await store.close()
        await plain.upsert(COLLECTION, points)
    await plain.drop_collection(COLLECTION)
    await plain.close()


async def allow_short() -> float:
    return 7.5


async def test_qdrant_receives_what_is_left() -> None:
    """The server's own limit ends before the client's, which is what the permit says."""
    asked: list[dict[str, Any]] = []
    store = QdrantStore("http://127.0.0.1:1", permit=allow_short)

    async def record(_method: str, _url: str, path: str, **options: Any) -> Any:
        is_read = "timeout" not in options["params"]
        if is_read and any(word in options["body"] for word in (b'"filter"', b'"ids"')):  # what is about to be deleted
            held = b'{"count":3}' if path.endswith("/count") else b"[]"
            return Response(200, b'{"result":' + held + b',"status":"ok","time":0.1}', {})
        asked.append(options)
        raise TransientError("qdrant_unavailable", "nothing is sent")

    store._client.request = record  # type: ignore[method-assign]
    for write in (
        store.upsert(COLLECTION, [make_point("a", 0)]),
        store.delete_object_points(COLLECTION, [ObjectId("o")], before_epoch=2),
        store.delete_points(COLLECTION, [PointId("1")]),
        store.set_alias("x", COLLECTION),
    ):
        with pytest.raises(TransientError):
            await write
    with pytest.raises(TransientError):
        await store.count(COLLECTION)
    assert [(options["timeout_s"], options["params"].get("timeout")) for options in asked] == [(7.5, 5)] * 4 + [
        (32, None)
    ]


async def test_weaviate_receives_what_is_left() -> None:
    """The deadline of the call, which gRPC passes on to the server, is what the permit says; reads keep their own."""
    async with _recording_grpc() as (url, left):
        with serving({"/v1/meta": lambda _: (200, {"version": "1.30.0"})}) as rest:
            store = WeaviateStore(rest, url, permit=allow_short)
            await store.upsert(COLLECTION, [make_point("a", 0)])
            await store.delete_object_points(COLLECTION, [ObjectId("o")], before_epoch=2)
            await store.count(COLLECTION)
            await store.close()
    writes, (read,) = left[:2], left[2:]
    assert all(2 < seconds < 8 for seconds in writes), "gRPC rounds deadlines up"
    assert read > 20


@asynccontextmanager
async def _recording_grpc() -> AsyncIterator[tuple[str, list[float]]]:
    """A gRPC server that gives every call an empty answer and notes the seconds that were left for it."""
    left: list[float] = []

    async def answer(_request: bytes, context: Any) -> bytes:
        left.append(context.time_remaining())
        return b""

    class Everything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Everything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"http://127.0.0.1:{port}", left
    await server.stop(None)
