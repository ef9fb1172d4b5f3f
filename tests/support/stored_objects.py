"""Collections with objects for tests of pages: a contract, rows of the object table, points in both stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ingestion_engine.domain.ids import PointId, make_object_id
from ingestion_engine.domain.records import Point, ReadWarning, RowState, TableRow, dump_warnings
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.state.aliases import Alias, write_alias
from ingestion_engine.state.collections import create_contract
from ingestion_engine.state.object_table.table import ObjectTable
from support.control import World, make_contract
from support.doubles import MemoryStore, hash_vector

JOB = "job-01jd00000000000000000000"
AT = "2026-11-28T12:00:00Z"
HANDBOOK = (
    "handbook/index.txt",
    "handbook/people/leave.html",
    "handbook/travel/planes.txt",
    "handbook/travel/trains.html",
    "readme.md",
    "reports/2026/q1.pdf",
    "reports/2026/q2.pdf",
    "ümläut & more/ä b?c#d.txt",
)


def write_collection(
    world: World,
    name: str,
    keys: Iterable[str] = HANDBOOK,
    *,
    chunks: int = 3,
    failed: Iterable[str] | Mapping[str, str] = (),
    warned: Iterable[str] | Mapping[str, str] = (),
    stores: tuple[StoreName, ...] = tuple(StoreName),
) -> None:
    """Make a collection whose objects have some chunks each; failed ones have none.

    A mapping gives the reason of each failed object, or the detail of each warning.
    """
    contract = make_contract(name, bucket="docs", query_prefix="find: ", stores=stores)
    create_contract(world.state, contract)
    for store in stores_of(world, stores):
        store.collections[name] = {}
        store.contracts[name] = contract
    rows = []
    for key in sorted(keys, key=str.encode):
        row = _make_row(key, 0 if key in failed else chunks, failed=key in failed, warned=key in warned)
        if isinstance(failed, Mapping) and key in failed:
            row = dataclasses.replace(row, reason=failed[key])
        if isinstance(warned, Mapping) and key in warned:
            row = dataclasses.replace(row, warnings=dump_warnings([ReadWarning("lines_skipped", 12, warned[key])]))
        rows.append(row)
        for number in range(rows[-1].chunk_count):
            for store in stores_of(world, stores):
                write_chunk(store, name, key, number)
    ObjectTable(world.state, name).append_run(rows, epoch=4, job_id=JOB)


def stores_of(world: World, names: Iterable[StoreName] = tuple(StoreName)) -> list[MemoryStore]:
    """The stores of a world."""
    return [{StoreName.QDRANT: world.qdrant, StoreName.WEAVIATE: world.weaviate}[name] for name in names]


def write_chunk(store: MemoryStore, collection: str, key: str, number: int, **changes: Any) -> None:
    """Write a chunk to one store; the vector follows from the text that it would have without changes."""
    object_id = make_object_id("docs", key)
    text = f"The service desk answers between eight and six. Part {number} of {key}."
    payload = {
        "object_id": object_id,
        "bucket": "docs",
        "key": key,
        "uri": f"s3://docs/{key}",
        "text": text,
        "chunk_index": number,
        "start_char": number * 900,
        "end_char": number * 900 + len(text),
        "page": number + 1,
        "content_type": "text/plain",
        "metadata": {"team": "travel"},
        "epoch": 4,
        "job_id": JOB,
        "ingested_at": AT,
    }
    point_id = PointId(f"{object_id[:-5]}{number:05d}")
    store.collections[collection][point_id] = Point(point_id, {**payload, **changes}, hash_vector(text, 8))


def drop_chunk(store: MemoryStore, collection: str, key: str, number: int) -> None:
    """Remove a chunk from one store."""
    del store.collections[collection][PointId(f"{make_object_id('docs', key)[:-5]}{number:05d}")]


def write_versions(world: World, alias: str, count: int) -> list[str]:
    """Make versions of an alias, which stands for the newest; return their names, newest first."""
    names = [f"{alias}_{number:026d}" for number in range(count, 0, -1)]
    for name in names:
        write_collection(world, name, HANDBOOK[:3])
    write_alias(world.state, Alias(alias, names[0], tuple(names[1:]), True, JOB, AT, AT))
    for store in stores_of(world):
        store.aliases[alias] = names[0]
    return names


def _make_row(key: str, chunks: int, *, failed: bool, warned: bool) -> TableRow:
    warnings = [ReadWarning("lines_skipped", 12, "Line 7 is not JSON.")] if warned else []
    row = TableRow(
        key=key,
        etag="9a0364b9e99bb480dd25e1f0284c8555-3",
        size_bytes=34_567,
        last_modified="2026-11-20T10:00:00Z",
        object_id=make_object_id("docs", key),
        state=RowState.PRESENT,
        error_code=None,
        reason=None,
        retryable=False,
        fingerprint="f00dfeedf00dfeed",
        chunk_count=chunks,
        points_digest="0" * 32,
        vectors_digest="0" * 32,
        epoch=4,
        job_id=JOB,
        updated_at=AT,
        warnings=dump_warnings(warnings),
    )
    if not failed:
        return row
    return dataclasses.replace(row, state=RowState.FAILED, error_code="parse_failed", reason="The PDF has no pages.")
