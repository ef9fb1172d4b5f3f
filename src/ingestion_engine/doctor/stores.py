"""Qdrant and Weaviate: version and permissions, tried with a throw-away collection; schemas of existing collections."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ingestion_engine.adapters.connect import open_state_store, open_stores
from ingestion_engine.doctor.context import Context, in_thread, timed
from ingestion_engine.doctor.findings import Finding, fail, fail_by, not_configured, ok, skip, warn
from ingestion_engine.domain.errors import CollectionMissing, FatalError, IngestionError
from ingestion_engine.domain.ids import make_object_id, make_point_id
from ingestion_engine.domain.ports import SearchFilter, StateStore, VectorStore
from ingestion_engine.domain.records import Point
from ingestion_engine.domain.spec import Chunking, CollectionContract, StoreName
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.collections import list_contracts, read_contract

TRIAL_PREFIX: Final = "ingest_doctor_"
"""Beginning of the names of throw-away collections; the second of their creation and random digits follow."""

TRIAL_JOB_PREFIX: Final = f"{TRIAL_PREFIX}job_"
"""The same for the collection and the prefix of a job that was submitted (``doctor.trial_job``)."""

LEFT_BEHIND_S: Final = 600.0
"""Age from which a throw-away collection belongs to an examination that was interrupted. A job has 300 s by default."""

MOST_COLLECTIONS: Final = 200
"""Collections whose schemas are compared; one request each."""
COLLECTIONS_AT_ONCE: Final = 8
"""Bounds the load on the stores (a guess)."""

_DIMENSION: Final = 4
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
_TRIAL_NAME: Final = re.compile(rf"{TRIAL_PREFIX}(?:job_)?(\d+)_[0-9a-f]+", re.IGNORECASE)
_TITLES: Final = {StoreName.QDRANT: "Qdrant", StoreName.WEAVIATE: "Weaviate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The versions of a store that can be used."""

    least: tuple[int, int]
    """Below it, jobs fail."""
    why: str
    """What versions below it lack."""
    full: tuple[int, int]
    """From it on everything works."""
    lacks: str
    """What versions below ``full`` lack."""


VERSIONS: Final = {
    StoreName.QDRANT: Versions(
        least=(1, 9), why="the request whether a collection exists", full=(1, 19), lacks="searches with key_prefix"
    ),
    StoreName.WEAVIATE: Versions(least=(1, 29), why="counts over gRPC (Aggregate)", full=(1, 32), lacks="aliases"),
}
"""Qdrant: the API's documentation of 1.9 (``/collections/{name}/exists``) and 1.19 (``MatchPrefix``). Weaviate: what
the adapters report (``weaviate_unsupported``, ``aliases_unsupported``)."""


async def check_qdrant(context: Context) -> list[Finding]:
    """Read the version, then create, fill, read and drop a collection."""
    return await _check_store(context, StoreName.QDRANT, context.settings.qdrant.url)


async def check_weaviate(context: Context) -> list[Finding]:
    """Read the version over both ports, then create, fill, read and drop a class."""
    return await _check_store(context, StoreName.WEAVIATE, context.settings.weaviate.url)


async def _check_store(context: Context, name: StoreName, url: str | None) -> list[Finding]:
    settings = context.settings
    variable = f"INGEST_{name.value.upper()}__URL"
    if url is None:
        if settings.qdrant.url is None and settings.weaviate.url is None:
            detail = "No vector store is configured; every job is refused."
            return [fail(detail, f"Set {variable}.", code="store_not_configured")]
        return [not_configured("Jobs cannot use this store.", f"Set {variable} to use it.")]
    store = open_stores(settings, [name])[name]
    try:
        return await _try_store(context, store, name)
    finally:
        await store.close()


async def _try_store(context: Context, store: VectorStore, name: StoreName) -> list[Finding]:
    version = await store.check()
    _, latency_ms = await timed(store.list_collections)
    judged = judge_version(name, version)
    if judged is not None and not judged[0]:
        return [fail(judged[1], judged[2], code=f"{name.value}_unsupported", version=version)]
    tried = "writes were not tried"
    if not context.read_only:
        await _try_collection(store)
        tried = "create, write, read, search and drop a collection"
    findings = [ok(f"version {version}, {tried}", latency_ms=latency_ms, version=version)]
    if judged is not None:
        findings.append(warn(judged[1], judged[2], target="version", version=version))
    left = [one for one in await store.list_collections() if _is_left_behind(one)]
    if left:
        text = f"An interrupted examination has left {', '.join(left)}."
        hint = "Delete these collections: `ingest collections delete NAME`, or the store's own client."
        findings.append(warn(text, hint, target="left behind"))
    return findings


def judge_version(name: StoreName, version: str) -> tuple[bool, str, str] | None:
    """Return whether a version can be used, what it lacks, and a hint; None for one that lacks nothing. Pure."""
    found = _VERSION.match(version)
    known, title = VERSIONS[name], _TITLES[name]
    if found is None:
        return True, f"The version {version!r} of {title} cannot be compared.", "Check that it is a release."
    number = (int(found[1]), int(found[2]))
    if number < known.least:
        least = ".".join(map(str, known.least))
        return False, f"{title} {version} lacks {known.why}.", f"Upgrade to {title} {least} or later."
    if number < known.full:
        full = ".".join(map(str, known.full))
        return True, f"{title} {version} lacks {known.lacks}.", f"Upgrade to {title} {full} or later to use them."
    return None


async def _try_collection(store: VectorStore) -> None:
    """Create a collection with one point, read and find it, and drop the collection. About fifteen requests."""
    contract, point = _make_trial()
    try:
        await store.ensure_collection(contract)
        await store.upsert(contract.collection, [point])
        found = await store.read_points(contract.collection, [point.id], with_vectors=True)
        hits = await store.search(contract.collection, point.vector, limit=1, where=SearchFilter())
        if [one.id for one in found] != [point.id] or [hit.point_id for hit in hits] != [point.id]:
            raise FatalError(
                "store_answer_wrong",
                f"{_TITLES[store.name]} did not return the point that was just written.",
                hint="Check that the address leads to one server or cluster, and no cache is in front of it.",
            )
    finally:
        await asyncio.shield(_drop(store, contract.collection))


async def _drop(store: VectorStore, collection: str) -> None:
    """Drop the throw-away collection; raises when the account may not."""
    await store.drop_collection(collection)


def _make_trial() -> tuple[CollectionContract, Point]:
    """Return the contract of a collection whose name nobody else has, and a point for it."""
    name = f"{TRIAL_PREFIX}{int(time.time())}_{secrets.token_hex(6)}"
    contract = CollectionContract(
        collection=name,
        stores=tuple(StoreName),
        model="none",
        model_digest="0" * 64,
        dimension=_DIMENSION,
        embedding_id="0" * 16,
        prefix="",
        query_prefix="",
        options={},
        chunking=Chunking(),
        created_at=timestamp_now(),
        created_by="doctor",
    )
    object_id = make_object_id("doctor", "trial")
    content_hash = "0" * 64
    payload = {
        "object_id": object_id,
        "bucket": "doctor",
        "key": "trial",
        "uri": "s3://doctor/trial",
        "etag": "0",
        "content_type": "text/plain",
        "text": "A point of `ingest doctor`.",
        "content_hash": content_hash,
        "chunk_index": 0,
        "start_char": 0,
        "end_char": 27,
        "embedding_id": "0" * 16,
        "epoch": 1,
        "job_id": "doctor",
        "ingested_at": timestamp_now(),
    }
    vector = np.full(_DIMENSION, 0.5, dtype=np.float32)
    return contract, Point(make_point_id(object_id, content_hash, 0), payload, vector)


def _is_left_behind(name: str) -> bool:
    found = _TRIAL_NAME.fullmatch(name)
    return found is not None and time.time() - int(found[1]) > LEFT_BEHIND_S


async def check_collections(context: Context) -> list[Finding]:
    """Compare the collections of the state store with what the vector stores hold."""
    if context.has_failed("state"):
        return [skip("because 'state' is not ok")]
    settings = context.settings
    state = open_state_store(settings)
    names = await in_thread(lambda: list_contracts(state))
    urls = {StoreName.QDRANT: settings.qdrant.url, StoreName.WEAVIATE: settings.weaviate.url}
    configured = [name for name, url in urls.items() if url]
    usable = [name for name in configured if not context.has_failed(name.value)]
    stores = open_stores(settings, usable)
    try:
        return await _compare(state, stores, names, configured=configured)
    finally:
        for store in stores.values():
            await store.close()


async def _compare(
    state: StateStore,
    stores: Mapping[StoreName, VectorStore],
    names: Sequence[str],
    *,
    configured: Collection[StoreName],
) -> list[Finding]:
    slots = asyncio.Semaphore(COLLECTIONS_AT_ONCE)

    async def compare(name: str) -> list[Finding]:
        async with slots:
            return await _compare_one(state, stores, name, configured=configured)

    compared = names[:MOST_COLLECTIONS]
    findings = [finding for some in await asyncio.gather(*map(compare, compared)) for finding in some]
    wrong = {finding.facts["collection"] for finding in findings}
    broken = [_TITLES[name] for name in configured if name not in stores]
    if not compared:
        return [ok("no collection yet", collections=0)]
    good = len(compared) - len(wrong)
    further = f" (of {len(names):,})" if len(names) > len(compared) else ""
    except_for = f"; {' and '.join(broken)} could not be compared" if broken else ""
    summary = ok(
        f"{good} of {len(compared)} collections{further} have their schema in every store{except_for}",
        collections=len(names),
        compared=len(compared),
    )
    return [summary, *findings] if good else findings


async def _compare_one(
    state: StateStore, stores: Mapping[StoreName, VectorStore], name: str, *, configured: Collection[StoreName]
) -> list[Finding]:
    """Return what is wrong with one collection."""
    try:
        contract = await in_thread(lambda: read_contract(state, name))
    except IngestionError as error:
        return [fail_by(error, "Restore the file from a backup.", target=name, collection=name)]
    if contract is None:  # deleted in the meantime
        return []
    findings = []
    for store_name in contract.stores:
        store = stores.get(store_name)
        if store is None:
            if store_name not in configured:
                text = f"Collection {name!r} is also in {_TITLES[store_name]}, which is not configured here."
                hint = f"Set INGEST_{store_name.value.upper()}__URL; its jobs are refused without it."
                findings.append(warn(text, hint, target=name, collection=name))
            continue
        try:
            await store.check_collection(contract)
        except CollectionMissing as error:
            hint = f"Submit a job for {name!r} with mode=full, which writes it again, or delete the collection."
            findings.append(fail(error.message, hint, target=name, code=error.code, collection=name))
        except IngestionError as error:
            hint = "Use another collection name, or drop this one in the store and submit a job with mode=full."
            findings.append(fail_by(error, hint, target=name, collection=name))
    return findings
