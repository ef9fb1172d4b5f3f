"""One conformance suite over every engine: the same job leaves the same, also when every partition fails once.

All of them embed through the gateway; what they leave is what the local engine leaves without one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.records import FAILURES_OF, POINTS_OF, WARNINGS_OF
from ingestion_engine.runtime.settings import GatewaySettings
from support.corpus.corpus import generate_corpus
from support.own_main import start_main
from support.platform_world import Platform, without_job_fields
from support.reading_cases import CASES

ENGINES = ("local", "ray", "spark")
WITHOUT_GATEWAY = "direct"
"""The local engine, which sends its requests to Ollama itself."""
OBJECTS = 50
PARALLELISM = 2

pytestmark = [
    pytest.mark.parametrize("engine", ENGINES),
    pytest.mark.parametrize("failing", [False, True], ids=["clean", "failing"]),
]


@dataclass(frozen=True)
class Run:
    """One job that has ended."""

    job_id: str
    collection: str
    counts: dict[str, Any]
    requests: int
    """What the embedder itself saw."""
    faults: list[str]
    """What happened to the workers, one entry per partition that failed."""


Runs = Callable[[str, bool], Run]


@pytest.fixture(scope="module")
def runs(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The same mixed bucket ingested by an engine, once for all tests that ask for it."""
    s3 = platform.s3()
    for item in generate_corpus(OBJECTS, broken=0.2, big_text_bytes=2**17, only_seaweedfs=True):
        extra = {"ContentType": item.content_type} if item.content_type else {}
        s3.put_object(Bucket="docs", Key=f"same/{item.key}", Body=item.body, Metadata=item.metadata, **extra)
    for case in CASES:
        s3.put_object(Bucket="docs", Key=f"same/cases/{case.key}", Body=case.body)
    done: dict[tuple[str, bool], Run] = {}

    def run(engine: str, failing: bool) -> Run:
        if (engine, failing) not in done:
            done[engine, failing] = _run(platform, engine, tmp_path_factory.mktemp("faults") if failing else None)
        return done[engine, failing]

    return run


def without_gateway(platform: Platform) -> Platform:
    assert platform.settings.gateway.url
    settings = platform.settings.model_copy(update={"gateway": GatewaySettings()})
    env = {name: value for name, value in platform.env.items() if not name.startswith("INGEST_GATEWAY__")}
    return replace(platform, settings=settings, env=env)


def _run(platform: Platform, engine: str, markers: Path | None) -> Run:
    collection = f"same_{engine}_{'clean' if markers is None else 'failing'}"
    request = {"source": {"bucket": "docs", "prefix": "same/"}, "collection": collection, "parallelism": PARALLELISM}
    before = platform.embed_requests()
    job_id = f"job-{collection.replace('_', '-')}"
    if markers is not None:
        # Failures in a row double the pause: ten of the usual ones would take minutes, and how long is not the subject.
        ledger = platform.write_spec(engine, job_id, outage_retry_s=0.001, **request)
        start_main(platform, ledger, 1, "--fault", "fail", "--markers", str(markers))
        ended = platform.wait_for_summary(ledger, timeout_s=200)
    elif engine in ("local", WITHOUT_GATEWAY):
        own = platform if engine == "local" else without_gateway(platform)
        ended = own.run_local(job_id, **request)
    else:
        ended = platform.run(engine, **request)
        job_id = ended["job_id"]
    assert ended["state"] == "partially_succeeded", ended
    faults = [] if markers is None else [path.read_text() for path in markers.iterdir()]
    counts = dict(ended["counts"])
    # The service shows the numbers by code apart from the other counts.
    for shown, prefix in (("warnings", WARNINGS_OF), ("failures_by_code", FAILURES_OF)):
        counts |= {f"{prefix}{code}": count for code, count in ended.get(shown, {}).items()}
    for store, numbers in (ended.get("store_points") or {}).items():
        counts |= {f"{POINTS_OF[kind]}{store}": number for kind, number in numbers.items() if number is not None}
    return Run(job_id, collection, counts, platform.embed_requests() - before, faults)


def test_counts_are_the_same(runs: Runs, engine: str, failing: bool) -> None:
    """Every count of the job; the one of repeated partitions says that each has failed once."""
    found, oracle = runs(engine, failing), runs(WITHOUT_GATEWAY, False)
    partitions = oracle.counts["partitions_done"]
    assert partitions >= 4 * PARALLELISM
    assert oracle.counts["failed"] > 0
    assert found.counts == {**oracle.counts, "partitions_repeated": partitions if failing else 0}
    assert len(found.faults) == found.counts["partitions_repeated"]
    assert set(found.faults) == ({"put back", "died"} if failing else set())


def test_embed_calls_are_the_same(runs: Runs, engine: str, failing: bool) -> None:
    """The embedder saw what the counts say; and as much again, no more, when every partition ran twice."""
    found = runs(engine, failing)
    assert found.requests == found.counts["embed_calls"] * (2 if failing else 1)


def test_points_are_the_same(platform: Platform, runs: Runs, engine: str, failing: bool) -> None:
    """Ids, payloads but for the job's own fields, and vectors, in both stores."""
    found, oracle = runs(engine, failing), runs(WITHOUT_GATEWAY, False)
    points = platform.both(found.collection)
    assert len(points) == found.counts["chunks"] > 0
    assert {found.counts[f"points_written.{store}"] for store in ("qdrant", "weaviate")} == {len(points)}
    assert without_job_fields(points) == without_job_fields(platform.both(oracle.collection))


def test_reports_and_failures_are_the_same(platform: Platform, runs: Runs, engine: str, failing: bool) -> None:
    """Every object has the same outcome, code and reason, and is reported once."""
    found, oracle = runs(engine, failing), runs(WITHOUT_GATEWAY, False)
    reports = platform.reports(found.job_id)
    assert len({report["key"] for report in reports}) == len(reports) == found.counts["planned"]
    assert reports == platform.reports(oracle.job_id)
    failures = {item["key"]: item["code"] for item in platform.ledger(found.job_id).read_failures(None, 1000)[0]}
    assert failures == {report["key"]: report["code"] for report in reports if report["code"]} != {}


def test_every_document_is_read_right(platform: Platform, runs: Runs, engine: str, failing: bool) -> None:
    """The stored chunks of every case have what its text must have."""
    chunks: dict[str, list[dict[str, Any]]] = {}
    for payload, _ in platform.both(runs(engine, failing).collection).values():
        chunks.setdefault(payload["key"], []).append(payload)
    found = {case.key: case.faults(_join(chunks.get(f"same/cases/{case.key}", []))) for case in CASES}
    assert {key: faults for key, faults in found.items() if faults} == {}


def _join(chunks: list[dict[str, Any]]) -> str:
    """Return the text of an object by its chunks; white space between them is blanks."""
    text = [" "] * max((chunk["end_char"] for chunk in chunks), default=0)
    for chunk in chunks:
        text[chunk["start_char"] : chunk["end_char"]] = chunk["text"]
    return "".join(text)
