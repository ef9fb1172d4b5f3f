"""Jobs as an operator's console would show them on an ordinary day, in a world of doubles."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.state.ledger import Ledger
from support.control import Plane, World, overwrite

REASONS = {
    "corrupt_document": "The PDF is damaged: its cross-reference table points beyond the end of the file.",
    "no_text": "The PDF has 14 pages and no text; they are scanned.",
    "encrypted_document": "The workbook is encrypted and requires a password.",
}


def make_failures(counts: dict[str, int]) -> list[dict[str, Any]]:
    """Return failed objects with codes and reasons."""
    return [
        {"key": f"contracts/2024/{code}-{number:05d}.pdf", "code": code, "reason": REASONS[code], "retryable": False}
        for code, number_of in counts.items()
        for number in range(number_of)
    ]


def make_points(written: int, deleted: int = 0) -> dict[str, int]:
    """Return the counts of points of a job whose stores are equal."""
    stores = ("qdrant", "weaviate")
    return {f"points_written.{s}": written for s in stores} | {f"points_deleted.{s}": deleted for s in stores}


def make_samples(begin: dt.datetime, seconds: int, rate: float) -> dict[str, Any]:
    """Return samples of a throughput that begins slowly, has a dip, and wavers."""
    every = max(1, seconds // 100)
    chunks, samples = 0.0, []
    for at in range(0, seconds, every):
        dip = 0.25 if 0.55 < at / seconds < 0.65 else 1.0
        chunks += every * rate * dip * min(1.0, 0.15 + at / seconds * 8) * (1 + 0.12 * math.sin(at / every))
        samples.append([begin.timestamp() + at, int(chunks), int(chunks * 900), int(chunks / 14)])
    return {"every_s": every, "samples": samples}


async def fill(world: World, plane: Plane) -> dict[str, str]:
    """Make one job of each kind; return their ids by what they show."""
    now = utc_now()
    made: dict[str, str] = {}

    async def submit(name: str, age_s: float, run_s: float = 0.0, **fields: Any) -> str:
        job_id = made[name] = await plane.submit(**fields)
        await plane.look()
        created = now - dt.timedelta(seconds=age_s)
        times = {"created_at": created, "submitted_at": created, "started_at": created + dt.timedelta(seconds=3)}
        if run_s:
            times["finished_at"] = created + dt.timedelta(seconds=3 + run_s)
        await overwrite(plane.services.store, job_id, **times)
        return job_id

    async def end(name: str, state: str = "succeeded", **fields: Any) -> None:
        row = await plane.services.jobs.get(made[name])
        finished = {"finished_at": row.finished_at.isoformat()} if row.finished_at else {}
        started = {"started_at": row.started_at.isoformat()} if row.started_at else {}
        world.engine.finish(made[name], state, **started, **finished, **fields)
        await plane.look()

    work = {"stage_seconds": {"embed": 2210.0, "fetch": 160.0, "parse": 290.0, "chunk": 60.0}}
    requests = {
        "embedder": {"done": 5120, "failed": 3, "seconds": 2080.0},
        "qdrant": {"done": 812, "failed": 0, "seconds": 74.0},
        "s3": {"done": 8112, "failed": 1, "seconds": 140.0},
        "weaviate": {"done": 812, "failed": 4, "seconds": 301.0},
    }
    counts = {"listed": 8112, "planned": 8112, "done": 8112, "chunks": 114_020, "bytes_read": 812_000_000}
    counts |= make_points(written=114_020)
    await submit(
        "succeeded", 86_400 * 2, 1_460, collection="handbook", source={"bucket": "docs", "prefix": "handbook/"}
    )
    await end("succeeded", counts=counts, timings={**work, "requests": requests})
    codes = {"corrupt_document": 41, "no_text": 23, "encrypted_document": 4}
    failures = {f"failures.{code}": number for code, number in codes.items()}
    job_id = await submit(
        "partial", 86_400, 940, collection="contracts", source={"bucket": "docs", "prefix": "contracts/"}
    )
    Ledger(world.state, job_id).write_failures("a01-00001", make_failures(codes))
    row = await plane.services.jobs.get(job_id)
    assert row.started_at is not None
    world.engine.progress(
        job_id, throughput=make_samples(row.started_at, 940, 70.0), timings={**work, "requests": requests}
    )
    await plane.look()
    done = {**counts, "done": 8044, "failed": 68, "objects_with_warnings": 112, **failures}
    await end("partial", "partially_succeeded", counts=done, timings={**work, "requests": requests})
    await submit("refused", 50_000, 12, collection="archive", source={"bucket": "docs", "prefix": "archive/"})
    error = {
        "code": "mass_delete_refused",
        "message": "The plan deletes 4,210 of 5,020 objects of the collection, more than 20 %.",
        "hint": "Check bucket and prefix; if it is meant, submit the job with allow_mass_delete.",
        "context": {},
    }
    await end("refused", "failed", error=error, counts={"listed": 810, "planned": 0, "to_delete": 4210})
    made["canceled"] = await plane.submit(collection="drafts")
    await plane.client.post(f"/jobs/{made['canceled']}/cancel")
    await overwrite(plane.services.store, made["canceled"], created_at=now - dt.timedelta(seconds=20_000))
    running = await submit("running", 620, collection="docs_v2", alias="docs", mode="full", source={"bucket": "docs"})
    row = await plane.services.jobs.get(running)
    assert row.started_at is not None
    world.engine.log = "\n".join(
        f"2026-11-28 19:{30 + number // 6:02d}:{number * 10 % 60:02d} INFO driver.monitor progress "
        f"phase=running percent={number * 2.3:.1f} done={number * 98} planned=8112 chunks_per_s=68.4"
        for number in range(1, 28)
    )
    world.engine.progress(
        running,
        percent=61.8,
        eta_s=372.0,
        counts={"listed": 8112, "planned": 8112, "done": 5013, "failed": 7, "chunks": 42_310, "bytes_read": 501_000_000,
                "failures.corrupt_document": 5, "failures.no_text": 2, **make_points(written=42_310, deleted=1_204)},
        rates={"chunks_per_s": 68.4, "bytes_per_s": 812_000.0},
        throughput=make_samples(row.started_at, 615, 72.0),
        timings={**work, "requests": requests, "phase_seconds": {"planning": 8.0}, "wait_seconds": {"qdrant": 21.0}},
    )  # fmt: skip
    paused = await submit("paused", 300, collection="tickets", source={"bucket": "docs", "prefix": "tickets/"})
    world.engine.progress(
        paused, phase="paused", waits_for="weaviate", percent=12.0, eta_s=None,
        note="Weaviate at http://weaviate:8080 does not respond; the job goes on by itself when it does.",
    )  # fmt: skip
    await plane.look()
    made["waiting"] = await plane.submit(collection="docs_v2", source={"bucket": "docs"})
    await plane.look()
    plan = await submit("plan", 40, 9, collection="wiki", mode="plan", source={"bucket": "docs", "prefix": "wiki/"})
    planned = {"listed": 12_480, "planned": 412, "new": 310, "changed": 102, "unchanged": 12_068, "to_delete": 17}
    await end("plan", counts={**planned, "bytes_planned": 48_000_000, "chunks_estimated": 6_900})
    assert plan
    return made
