"""A careful hand-written script: obstore, aiohttp and Qdrant's own client, overlapped by bounded queues.

Listing, reading ahead, batches of 32 chunks across objects, two embed requests in flight, retries, upserts of 256
points at a time with stable ids. It does not skip unchanged objects, deletes nothing, and does not recover from a
crash.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import obstore
import orjson
from obstore.store import S3Store
from qdrant_client import AsyncQdrantClient, models
from task import BATCH_TEXTS, CHUNK_CHARS, read_task, say_done

AHEAD = 8
"""Objects read ahead, and batches waiting in each queue."""
IN_FLIGHT = 2
UPSERT_POINTS = 256
TRIES = 8


def split(text: str) -> list[tuple[int, str]]:
    """Cut at the last blank line, line end or space within 1,000 characters."""
    chunks, start = [], 0
    while start < len(text):
        end = min(start + CHUNK_CHARS, len(text))
        if end < len(text):
            cuts = (text.rfind(mark, start + CHUNK_CHARS // 2, end) for mark in ("\n\n", "\n", ". ", " "))
            end = next((cut + 1 for cut in cuts if cut > 0), end)
        if piece := text[start:end].strip():
            chunks.append((start, piece))
        start = end
    return chunks


async def read_objects(s3: dict[str, str]) -> AsyncIterator[tuple[str, str]]:
    """Yield keys and texts, some read ahead, in order."""
    store = S3Store(
        s3["bucket"],
        endpoint=s3["endpoint"],
        access_key_id=s3["key"],
        secret_access_key=s3["secret"],
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )

    async def read(key: str) -> tuple[str, str]:
        answer = await obstore.get_async(store, key)
        return key, bytes(await answer.bytes_async()).decode("utf-8", errors="replace")

    ahead: list[asyncio.Task[tuple[str, str]]] = []
    async for page in obstore.list(store, s3["prefix"], chunk_size=1000):
        for entry in page:
            ahead.append(asyncio.create_task(read(entry["path"])))
            if len(ahead) >= AHEAD:
                yield await ahead.pop(0)
    while ahead:
        yield await ahead.pop(0)


async def embed(http: aiohttp.ClientSession, task: dict[str, Any], texts: list[str]) -> list[list[float]]:
    """Embed one batch; retries everything except 4xx."""
    body = orjson.dumps({"model": task["model"], "input": texts, "truncate": False})
    for number in range(TRIES):
        try:
            async with http.post(f"{task['ollama']}/api/embed", data=body) as answer:
                if answer.status == 200:
                    vectors: list[list[float]] = orjson.loads(await answer.read())["embeddings"]
                    return vectors
                if 400 <= answer.status < 500:
                    raise RuntimeError(await answer.text())
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2 * 2**number)
    raise RuntimeError("the embedder is unavailable")


async def run(task: dict[str, Any]) -> int:
    qdrant = AsyncQdrantClient(url=task["qdrant"], timeout=60)
    if not await qdrant.collection_exists(task["collection"]):
        params = models.VectorParams(size=task["dimension"], distance=models.Distance.COSINE)
        await qdrant.create_collection(task["collection"], vectors_config=params)
    batches: asyncio.Queue[list[tuple[str, int, str]] | None] = asyncio.Queue(AHEAD)
    done: asyncio.Queue[list[models.PointStruct] | None] = asyncio.Queue(AHEAD)

    async def produce() -> None:
        batch: list[tuple[str, int, str]] = []
        async for key, text in read_objects(task["s3"]):
            for start, piece in split(text):
                batch.append((key, start, piece))
                if len(batch) == BATCH_TEXTS:
                    await batches.put(batch)
                    batch = []
        if batch:
            await batches.put(batch)
        for _ in range(IN_FLIGHT):
            await batches.put(None)

    async def embed_all(http: aiohttp.ClientSession) -> None:
        while (batch := await batches.get()) is not None:
            vectors = await embed(http, task, [piece for _, _, piece in batch])
            points = [
                models.PointStruct(
                    id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{key}#{start}")),
                    vector=vector,
                    payload={"key": key, "start_char": start, "text": piece},
                )
                for (key, start, piece), vector in zip(batch, vectors, strict=True)
            ]
            await done.put(points)
        await done.put(None)

    async def store_all() -> int:
        count, open_producers = 0, IN_FLIGHT
        points: list[models.PointStruct] = []
        while open_producers:
            some = await done.get()
            if some is None:
                open_producers -= 1
            else:
                points += some
            if len(points) >= UPSERT_POINTS or (points and not open_producers):
                await qdrant.upsert(task["collection"], points, wait=True)
                count += len(points)
                points = []
        return count

    async with (
        aiohttp.ClientSession(headers={"content-type": "application/json"}) as http,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(produce())
        for _ in range(IN_FLIGHT):
            group.create_task(embed_all(http))
        storing = group.create_task(store_all())
    await qdrant.close()
    return storing.result()


if __name__ == "__main__":
    say_done(asyncio.run(run(read_task())))
