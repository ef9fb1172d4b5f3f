"""A store that is overloaded, full or restarting for a moment costs no vectors: the same request is sent again."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import orjson
import pytest

from ingestion_engine.adapters.patience import Patience
from ingestion_engine.adapters.qdrant.store import QdrantStore
from ingestion_engine.adapters.weaviate.schema import make_definition
from ingestion_engine.adapters.weaviate.store import WeaviateStore
from ingestion_engine.adapters.weaviate.stubs import batch_pb2
from ingestion_engine.domain.errors import CollectionMissing, PointsRefused, TransientError
from support.answering import serving
from support.vector_stores import make_contract, make_point

COLLECTION = "patient"
POINTS = [make_point("a", number) for number in range(40)]
DONE = (200, {"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0.1})


class Pauses:
    """Counts the checks of the pauses, which take no time."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def check(self) -> None: ...

    def patience(self) -> Patience:
        return Patience(check=self.check, clock=lambda: self.now, sleep=self.sleep)


def refusing(status: int, text: str, **headers: str) -> tuple[int, Any, dict[str, str]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"status": {"error": text}, "time": 0.0}, named


class RateLimited:
    """Qdrant's write limit per minute: a bucket of tokens, one per point, as in its lib/common rate_limiting."""

    def __init__(self, per_minute: int, pauses: Pauses) -> None:
        self._per_minute = per_minute
        self._pauses = pauses
        self._tokens = float(per_minute)
        self._at = 0.0
        self.written: list[str] = []
        self.sizes: list[int] = []

    def put(self, body: bytes) -> tuple[Any, ...]:
        ids = [point["id"] for point in orjson.loads(body)["points"]]
        if len(ids) > self._per_minute:
            text = (
                "Write rate limit exceeded, request larger than rate limiter capacity, please try to split your request"
            )
            return refusing(429, f"Rate limiting exceeded: {text}")
        now = self._pauses.now
        self._tokens = min(self._per_minute, self._tokens + (now - self._at) * self._per_minute / 60)
        self._at = now
        if self._tokens < len(ids):
            seconds = math.ceil((len(ids) - self._tokens) * 60 / self._per_minute)
            text = f"Rate limiting exceeded: Write rate limit exceeded: Retry after {seconds}s"
            return refusing(429, text, retry_after=str(seconds))
        self._tokens -= len(ids)
        self.written += ids
        self.sizes.append(len(ids))
        return DONE


async def test_a_limit_below_one_write_is_met_by_smaller_writes() -> None:
    """Every point is written once; a part that was written is not sent again after a pause."""
    pauses = Pauses()
    limit = RateLimited(12, pauses)
    with serving({f"/collections/{COLLECTION}/points?timeout=30&wait=true": limit.put}) as url:
        store = QdrantStore(url, patience=pauses.patience())
        await store.upsert(COLLECTION, POINTS)
        await store.close()
    assert sorted(limit.written) == sorted(point.id for point in POINTS)
    assert max(limit.sizes) <= 12
    assert 120 < pauses.now < 240, "3.3 times the limit of a minute, of which the first is free"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (429, "Rate limiting exceeded: Write rate limit exceeded: Retry after 3s"),
        (500, "Service internal error: No space left on device: WAL buffer size exceeds available disk space"),
        (503, "Shard temporarily unavailable: The replica is recovering"),
        (507, "Insufficient storage: disk usage is at 95 %"),
        (408, "Timeout: Operation 'update' timed out after 30s"),
    ],
)
async def test_qdrant_gets_the_same_points_again(status: int, text: str) -> None:
    """The write succeeds as soon as the store takes it."""
    answers = [refusing(status, text), refusing(status, text), DONE]
    bodies: list[bytes] = []

    def put(body: bytes) -> tuple[Any, ...]:
        bodies.append(body)
        return answers.pop(0)

    with serving({"*": put}) as url:
        store = QdrantStore(url, patience=Pauses().patience())
        await store.upsert(COLLECTION, POINTS)
        await store.close()
        hasty = QdrantStore(url)
        answers.append(refusing(status, text))
        with pytest.raises(TransientError):
            await hasty.upsert(COLLECTION, POINTS)
        await hasty.close()
    assert len(bodies) == 4
    assert bodies[0] == bodies[1] == bodies[2]


@asynccontextmanager
async def fake_weaviate(answer: Callable[[Any], Any]) -> AsyncIterator[str]:
    """A gRPC server whose BatchObjects answers with ``answer(request)``, which may raise a status to abort with."""

    async def serve(request: Any, context: Any) -> Any:
        try:
            return answer(request)
        except _Abort as abort:
            await context.abort(abort.code, abort.text)

    method = grpc.unary_unary_rpc_method_handler(
        serve,
        request_deserializer=batch_pb2.BatchObjectsRequest.FromString,
        response_serializer=batch_pb2.BatchObjectsReply.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("weaviate.v1.Weaviate", {"BatchObjects": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"http://127.0.0.1:{port}"
    await server.stop(None)


class _Abort(Exception):
    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


WHOLE = make_definition(make_contract(COLLECTION))


@pytest.mark.parametrize(
    "failure",
    [
        _Abort(grpc.StatusCode.UNAVAILABLE, "server is in maintenance mode"),
        _Abort(grpc.StatusCode.UNKNOWN, "batch objects: cannot process batch: not enough memory"),
        "store is read-only due to: disk usage too high",
        "an error that no version had so far",
    ],
    ids=["unavailable", "memory", "read-only", "unknown"],
)
async def test_weaviate_gets_the_same_points_again(failure: _Abort | str) -> None:
    """A failed call and errors of single objects that concern the server are the same."""
    calls: list[int] = []

    def answer(request: Any) -> Any:
        calls.append(len(request.objects))
        if len(calls) > 2:
            return batch_pb2.BatchObjectsReply()
        if isinstance(failure, _Abort):
            raise failure
        error = batch_pb2.BatchObjectsReply.BatchError(index=7, error=failure)
        return batch_pb2.BatchObjectsReply(errors=[error])

    rest = {"/v1/meta": lambda _: (200, {"version": "1.39.0"}), "/v1/schema/Patient": lambda _: (200, WHOLE)}
    async with fake_weaviate(answer) as target:
        with serving(rest) as url:
            store = WeaviateStore(url, target, patience=Pauses().patience())
            await store.upsert(COLLECTION, POINTS)
            await store.close()
    assert calls == [len(POINTS)] * 3


async def test_a_class_that_was_dropped_during_a_pause_is_not_made_again() -> None:
    """Weaviate would guess its schema from the objects that are sent."""
    calls: list[int] = []

    def answer(request: Any) -> Any:
        calls.append(len(request.objects))
        raise _Abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    rest = {
        "/v1/meta": lambda _: (200, {"version": "1.39.0"}),
        "/v1/schema/Patient": lambda _: (404, b""),
        "/v1/.well-known/ready": lambda _: (200, {}),
        "/v1/schema": lambda _: (200, {"classes": []}),
    }
    async with fake_weaviate(answer) as target:
        with serving(rest) as url:
            store = WeaviateStore(url, target, patience=Pauses().patience())
            with pytest.raises(CollectionMissing):
                await store.upsert(COLLECTION, POINTS)
            await store.close()
    assert calls == [len(POINTS)]


async def test_a_message_that_is_too_large_is_cut() -> None:
    """The server's limit may be lower than it says; a point that is too large alone is refused."""
    written: list[str] = []

    def answer(request: Any) -> Any:
        ids = [item.uuid for item in request.objects]
        if len(ids) > 3 or POINTS[5].id in ids:
            raise _Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (9 vs. 4)")
        written.extend(ids)
        return batch_pb2.BatchObjectsReply()

    async with fake_weaviate(answer) as target:
        with serving({"/v1/meta": lambda _: (200, {"version": "1.39.0"})}) as url:
            store = WeaviateStore(url, target, patience=Pauses().patience())
            with pytest.raises(PointsRefused) as refused:
                await store.upsert(COLLECTION, POINTS)
            await store.close()
    assert list(refused.value.context["refused"]) == [POINTS[5].id]
    assert sorted(written) == sorted(point.id for point in POINTS if point is not POINTS[5])
