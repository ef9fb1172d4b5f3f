"""The client and the command, against a service with working doubles on a loopback port."""

from __future__ import annotations

import asyncio
import hashlib
import io
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import orjson
import pytest

from ingestion_engine.cli import app as command
from ingestion_engine.cli import data
from ingestion_engine.cli.output import ExitCode, run_app
from ingestion_engine.cli.requests import merge_request, split_source
from ingestion_engine.cli.watch import describe_facts, describe_points, show_end
from ingestion_engine.client import ApiError, ApiUnreachable, IngestClient, NotFound
from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ids import PartitionId, PointId, make_object_id
from ingestion_engine.domain.records import (
    PartitionReport,
    Point,
    ReadWarning,
    ReportStatus,
    RowState,
    TableRow,
    dump_warnings,
)
from ingestion_engine.domain.spec import Chunking, EngineName
from ingestion_engine.domain.states import JobState
from ingestion_engine.models.jobs import EmbeddingView
from ingestion_engine.models.search import Hit
from ingestion_engine.runtime.timestamps import utc_now
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.state.aliases import Alias, write_alias
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from support.answering import serving
from support.client_views import make_job, make_progress
from support.clients import problem
from support.control import BODY, World, make_collection, unreachable
from support.doubles import hash_vector
from support.live_service import LiveService
from support.waiting import wait_for

PARTITION = PartitionId("a01-00001.0.10.0123456789abcdef")

KEY = "a-key-of-this-test"


@dataclass
class Running:
    """A service on a port; its jobs end with ``outcome`` as soon as they are submitted."""

    world: World
    url: str = ""
    outcome: dict[str, Any] = field(default_factory=lambda: {"state": "succeeded"})


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    world = World(tmp_path)
    running = Running(world)
    submit = world.engine.submit

    async def submit_and_finish(job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        await submit(job_id, attempt, spec_uri, parallelism)
        world.engine.progress(job_id)
        await asyncio.sleep(0)
        if running.outcome["state"] != "running":
            world.engine.finish(job_id, **running.outcome)

    world.engine.submit = submit_and_finish  # type: ignore[method-assign]
    keys = tmp_path / "keys.json"
    entry = {"name": "team", "key_sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    keys.write_bytes(orjson.dumps([entry]))
    with LiveService(world, api={"keys_file": keys}) as live:
        running.url = live.url
        monkeypatch.setenv("INGEST_API_URL", running.url)
        monkeypatch.setenv("INGEST_API_KEY", KEY)
        yield running


def run(*arguments: str) -> int:
    return run_app(command, arguments)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("succeeded", ExitCode.SUCCEEDED),
        ("failed", ExitCode.FAILED),
        ("partially_succeeded", ExitCode.PARTIALLY_SUCCEEDED),
        ("canceled", ExitCode.CANCELED),
    ],
)
def test_watching_ends_with_the_jobs_exit_code(
    service: Running, capsys: pytest.CaptureFixture[str], state: str, code: ExitCode
) -> None:
    """The exit code reports the final state; piped output has no control characters."""
    service.outcome = {"state": state}
    assert run("submit", "s3://docs/a/", "-c", "notes", "--watch") == code
    shown = capsys.readouterr().out
    assert state in shown
    assert "\x1b" not in shown
    job_id = shown.split()[0]
    assert run("show", job_id) == code
    assert run("watch", job_id) == code


def test_json_is_one_value_per_line(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` prints one JSON value per line."""
    assert run("submit", "s3://docs/", "-c", "notes", "--watch", "--json") == 0
    lines = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["state"] == "queued"
    assert lines[-1]["state"] == "succeeded"
    job_id = lines[0]["job_id"]
    assert run("jobs", "--json", "-n", "5") == 0
    assert [orjson.loads(line)["job_id"] for line in capsys.readouterr().out.splitlines()] == [job_id]
    assert run("ready", "--json") == 0
    assert orjson.loads(capsys.readouterr().out)["dependencies"]["ray"]["ok"]
    assert run("ready") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("dispatcher\tthis copy\t-\t")


def test_a_forced_cancellation_reaches_the_service(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """The job ends although its cluster is gone."""
    service.outcome = {"state": "running"}
    with IngestClient(service.url, KEY) as client:
        job_id = client.submit(BODY).job_id
        wait_for(lambda: client.get_job(job_id).state == "submitted")
        service.world.engine.away = unreachable()
        assert run("cancel", job_id, "--force") == 0
        assert capsys.readouterr().out == f"{job_id} canceling\n"
        assert client.wait(job_id, timeout_s=30).state == "canceled"


def test_every_flag_reaches_the_request(service: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Flags override the file; other fields keep the default of the service."""
    file = tmp_path / "request.json"
    file.write_bytes(orjson.dumps({**BODY, "parallelism": 7, "source": {"bucket": "docs", "prefix": "old/"}}))
    flags = "--alias live --prefix new/ --include *.md --exclude a* --exclude b* --store qdrant --mode full"
    flags += " --no-delete-missing"
    flags += " --allow-mass-delete --retry-failed --model m --embed-prefix d: --query-prefix q: --max-chars 900"
    flags += " --priority 8"
    flags += " --overlap-chars 9 --failure-fraction 0.5 --failure-min 3 --max-runtime 60 --metadata team=docs"
    assert run("submit", "--file", str(file), *flags.split(), "--json") == 0
    job = orjson.loads(capsys.readouterr().out)
    with IngestClient(service.url, KEY) as client:
        request = client.get_job(job["job_id"]).request
    assert request == {
        "source": {"bucket": "docs", "prefix": "new/", "include": ["*.md"], "exclude": ["a*", "b*"]},
        "alias": "live",
        "collection": "notes",
        "stores": ["qdrant"],
        "mode": "full",
        "delete_missing": False,
        "allow_mass_delete": True,
        "retry_failed": True,
        "embedding": {"model": "m", "prefix": "d:", "query_prefix": "q:"},
        "chunking": {"max_chars": 900, "overlap_chars": 9},
        "parallelism": 7,
        "priority": 8,
        "failure_budget": {"max_fraction": 0.5, "min_objects": 3},
        "max_runtime_s": 60,
        "metadata": {"team": "docs"},
    }


def test_a_refusal_names_what_is_wrong(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 5, a sentence and a hint on standard error, nothing on standard output."""
    assert run("submit", "s3://nowhere/", "-c", "notes") == ExitCode.REFUSED
    shown = capsys.readouterr()
    assert "bucket_not_found" in shown.err
    assert "hint" in shown.err
    assert shown.out == ""
    assert run("submit", "-c", "notes", "-p", "0") == ExitCode.REFUSED
    assert "/parallelism" in capsys.readouterr().err


def test_a_service_that_is_not_there_has_its_own_exit_code(capsys: pytest.CaptureFixture[str], unused_url: str) -> None:
    """No traceback; the hint says how to start it."""
    assert run("jobs", "--url", unused_url) == ExitCode.UNREACHABLE
    assert "ingest up" in capsys.readouterr().err


@pytest.fixture
def unused_url() -> str:
    """Return the URL of a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["submit", "--nope"], ["show"], ["submit", "--file", "/does/not/exist"], ["jobs", "-n", "x"]],
)
def test_a_wrong_command_line_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The error is printed on standard error."""
    assert run(*arguments) == ExitCode.USAGE
    assert capsys.readouterr().err


def test_a_wrong_key_is_refused(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes from the environment only."""
    monkeypatch.setenv("INGEST_API_KEY", "another")
    assert run("jobs") == ExitCode.REFUSED


def test_failures_retry_cancel_and_logs(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands for jobs with failures."""
    service.outcome = {"state": "partially_succeeded"}
    with IngestClient(service.url, KEY) as client:
        job_id = client.submit(BODY).job_id
        client.wait(job_id, timeout_s=10)
        ledger = Ledger(service.world.state, job_id)
        items = [{"key": f"k\x1b{n}", "code": "parse_failed", "reason": "broken"} for n in range(3)]
        ledger.write_failures("a01-00000", items)
        ledger.write_log(1, "said the driver\n")
        assert [item.key for item in client.iter_failures(job_id)] == ["k\x1b0", "k\x1b1", "k\x1b2"]
    assert run("failures", job_id) == 0
    shown = capsys.readouterr().out
    assert "parse_failed\tk\\x1b0\tbroken" in shown
    assert run("logs", job_id) == 0
    assert capsys.readouterr().out == "said the driver\n"
    assert run("retry", job_id, "--json") == 0
    assert orjson.loads(capsys.readouterr().out)["job_id"] != job_id
    for options in ([], ["--force"]):
        assert run("cancel", job_id, *options) == 0
        assert capsys.readouterr().out == f"{job_id} partially_succeeded\n"


def test_search_shows_both_stores(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Best first; the query is embedded with the collection's query prefix."""
    make_collection(service.world)
    assert run("search", "notes", "cats", "-n", "2", "--json") == 0
    found = orjson.loads(capsys.readouterr().out)
    for store in ("qdrant", "weaviate"):
        hits = found["results"][store]
        assert (hits[0]["key"], hits[0]["score"], len(hits)) == ("0.txt", 1.0, 2)
    assert run("search", "notes", "cats") == 0
    assert "0.txt" in capsys.readouterr().out
    assert run("collections") == 0
    assert capsys.readouterr().out.splitlines()[1].split("\t") == ["notes", "all-minilm", "3", "3"]
    assert run("collections", "notes") == 0
    assert "8 dimensions" in capsys.readouterr().out
    assert run("collections", "none") == ExitCode.REFUSED


def test_a_hit_in_the_rows_of_a_table_shows_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    """Above the rows, in a line of its own."""
    payload = {"key": "a.md", "text": "| Bonn |\n| Ulm |", "context": "| City |"}
    data._show_hit(Hit.model_validate({"point_id": "1", "score": 0.5, **payload}, extra="allow"))
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "0.500  a.md",
        "| City |",
        "| Bonn | | Ulm |",
    ]


def test_searching_before_a_job_has_ended_names_the_command_to_wait(
    service: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the collection exists already or not; the hints of the command name no route."""
    service.outcome = {"state": "running"}
    assert run("submit", "s3://docs/", "-c", "fresh") == 0
    job_id = capsys.readouterr().out.split()[0]
    assert run("search", "fresh", "cats") == ExitCode.REFUSED
    assert f"ingest watch {job_id}" in capsys.readouterr().err
    make_collection(service.world)
    assert run("search", "notes", "cats", "-n", "5") == 0
    assert capsys.readouterr().err == ""
    assert run("submit", "s3://docs/", "-c", "notes", "--query-prefix", "find: ") == 0
    job_id = capsys.readouterr().out.split()[0]
    assert run("search", "notes", "cats", "-n", "5") == 0
    assert f"ingest watch {job_id}" in capsys.readouterr().err
    assert run("search", "notes", "cats", "-n", "1") == 0
    assert capsys.readouterr().err == ""
    assert run("show", "job-none") == ExitCode.REFUSED
    assert "Run `ingest jobs`" in capsys.readouterr().err


def test_a_search_shows_its_results_when_jobs_cannot_be_listed(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request for the newest job only adds a hint."""
    make_collection(service.world)

    def fail(*_: object, **__: object) -> NoReturn:
        raise ApiUnreachable("connection refused")

    monkeypatch.setattr(IngestClient, "list_jobs", fail)
    assert run("search", "notes", "cats", "-n", "5") == 0
    assert "0.txt" in capsys.readouterr().out


def test_searches_are_narrowed_by_key(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """``--key-prefix`` restricts the results to keys with the prefix."""
    make_collection(service.world)
    assert run("search", "notes", "cats", "--key-prefix", "1", "--json") == 0
    found = orjson.loads(capsys.readouterr().out)
    assert {name: [hit["key"] for hit in hits] for name, hits in found["results"].items()} == {
        "qdrant": ["1.txt"],
        "weaviate": ["1.txt"],
    }


@pytest.mark.parametrize("mode", ["verify", "repair"])
def test_collections_are_compared_and_repaired(service: Running, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    """Only the collection is named; differences are exit code 1, for every command that shows the job."""
    make_collection(service.world, bucket="docs", chunking=Chunking(max_chars=300, overlap_chars=10))
    assert run(mode, "notes", "--prefix", "a/", "--watch", "--json") == 0
    done = orjson.loads(capsys.readouterr().out.splitlines()[-1])
    assert (done["mode"], done["request"]["source"]["prefix"]) == (mode, "a/")
    error = {
        "kind": "fatal",
        "code": "differences_found",
        "message": "1 of 2 objects differ",
        "hint": "",
        "context": {},
    }
    service.outcome = {"state": "failed", "error": error, "counts": {"listed": 2, "verified": 2, "different": 1}}
    assert run(mode, "notes", "--watch") == 1
    shown = capsys.readouterr()
    job_id = shown.out.split()[0]
    assert "different 1" in shown.out
    assert f"ingest failures {job_id}" in shown.out
    assert "differences_found" in shown.err
    assert run("show", job_id) == run("watch", job_id) == 1
    assert run("collections", "notes") == 0
    assert f"{job_id} ({mode}, failed" in capsys.readouterr().out
    assert run(mode, "none") == ExitCode.REFUSED


def test_what_was_left_out_is_shown(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """With the end of the job, and with each object."""
    make_collection(service.world, bucket="docs", query_prefix="")
    left_out = {"objects_with_warnings": 1, "warnings.lines_skipped": 2, "warnings.part_unreadable": 1}
    service.outcome = {"state": "succeeded", "counts": {"listed": 2, "done": 2, **left_out}}
    assert run("submit", "s3://docs", "-c", "notes", "--watch") == 0
    shown = capsys.readouterr().out
    assert "done 2 · objects with warnings 1\n" in shown
    assert "  warnings: lines_skipped 2 · part_unreadable 1\n  ingest objects notes --warnings\n" in shown
    with IngestClient(service.url, KEY) as client:
        [job] = client.list_jobs(limit=1).items
        assert job.warnings == {"lines_skipped": 2, "part_unreadable": 1}
        assert job.counts == {"listed": 2, "done": 2, "objects_with_warnings": 1}
    warnings = dump_warnings([ReadWarning("lines_skipped", 2, "Line 7 is not JSON."), ReadWarning("part_unreadable")])
    at = "2026-01-01T00:00:00Z"
    rows = [
        TableRow(key, "e", 1, at, "o", RowState.PRESENT, None, None, False, "f", 1, "", "", 1, "j", at, warnings=found)
        for key, found in (("a", None), ("b", warnings))
    ]
    ObjectTable(service.world.state, "notes").append_run(rows, epoch=1, job_id="j")
    assert run("objects", "notes") == 0
    assert [line.split("\t")[-1] for line in capsys.readouterr().out.splitlines()] == [
        "WARNINGS", "-", "2 lines_skipped: Line 7 is not JSON.; 1 part_unreadable",
    ]  # fmt: skip
    assert run("objects", "notes", "--warnings", "--json") == 0
    [item] = map(orjson.loads, capsys.readouterr().out.splitlines())
    assert (item["key"], [warning["code"] for warning in item["warnings"]]) == (
        "b",
        ["lines_skipped", "part_unreadable"],
    )


def test_objects_are_removed_after_a_confirmation(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--yes`` skips it; "no" removes nothing; an empty prefix requires ``--all``."""
    make_collection(service.world, bucket="docs")
    for answer, made in ((b"n\n", False), (b"y\n", True)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(answer)))
        code = run("delete-objects", "notes", "--prefix", "2023/", "--json")
        shown = capsys.readouterr()
        assert "'2023/'" in shown.err
        assert (code == 0) is made
        assert bool(shown.out.strip()) is made
    assert run("delete-objects", "notes", "--prefix", "", "--yes") == ExitCode.REFUSED
    assert run("delete-objects", "notes", "--prefix", "", "--yes", "--all", "--watch") == 0
    with IngestClient(service.url, KEY) as client:
        jobs = client.list_jobs().items
    assert [(job.mode, job.request["source"]["prefix"]) for job in jobs] == [("delete", ""), ("delete", "2023/")]


def test_a_collection_is_deleted_after_a_confirmation(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--yes`` skips it; what is left is printed; a collection called "delete" can still be shown."""
    for name in ("notes", "delete"):
        make_collection(service.world, name)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"n\n")))
    assert run("collections", "delete", "notes") == 130
    assert "'notes'" in capsys.readouterr().err
    assert run("collections", "delete") == 0
    assert capsys.readouterr().out.split()[:2] == ["collection", "delete"]
    assert run("collections", "delete", "notes", "--yes") == 0
    assert capsys.readouterr().out == "notes deleted\n"
    assert run("collections", "delete", "notes", "--yes") == ExitCode.REFUSED
    assert run("collections", "show", "notes") == ExitCode.USAGE
    capsys.readouterr()
    assert run("collections", "delete", "delete", "--yes", "--json") == 0
    assert orjson.loads(capsys.readouterr().out) == {"collection": "delete", "deleted": True, "note": None}
    assert "notes" not in service.world.qdrant.collections


def test_lists_that_are_cut_say_so(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, so that a program which reads the list is not disturbed; ``--all`` lists everything."""
    make_collection(service.world)
    at = "2026-01-01T00:00:00Z"
    rows = [
        TableRow(key, "e", 1, at, "o", RowState.PRESENT, None, None, False, "f", 1, "", "", 1, "j", at)
        for key in ("a", "b", "c")
    ]
    ObjectTable(service.world.state, "notes").append_run(rows, epoch=1, job_id="j")
    with IngestClient(service.url, KEY) as client:
        ids = [client.submit({**BODY, "collection": "jobs"}).job_id for _ in range(3)]
        for job_id in ids:
            client.wait(job_id, timeout_s=10)
    items = [{"key": f"k{n}", "code": "parse_failed", "reason": "broken"} for n in range(3)]
    Ledger(service.world.state, ids[0]).write_failures("a01-00000", items)
    for command_line in (["jobs"], ["objects", "notes"], ["failures", ids[0]]):
        assert run(*command_line, "-n", "2", "--json") == 0
        shown = capsys.readouterr()
        assert len(shown.out.splitlines()) == 2
        assert "more than these 2" in shown.err
        assert "--all" in shown.err
        for whole in (["-n", "3"], ["-n", "2", "--all"]):
            assert run(*command_line, *whole, "--json") == 0
            shown = capsys.readouterr()
            assert (len(shown.out.splitlines()), shown.err) == (3, "")
    assert run("jobs", "-n", "3") == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("\tPROGRESS\tNOTE"), "why a job waits"


def test_a_collection_without_a_bucket_has_a_hint(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with a command that takes the bucket."""
    make_collection(service.world)
    assert run("verify", "notes") == ExitCode.USAGE
    assert "ingest submit" in capsys.readouterr().err


def test_a_request_can_come_from_standard_input(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--file -`` reads the request from standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(orjson.dumps(BODY))))
    assert run("submit", "--file", "-") == 0
    assert capsys.readouterr().out.startswith("job-")


def test_the_client_raises_the_problem_of_the_service(service: Running) -> None:
    """Code, field and hint are attributes."""
    with IngestClient(service.url, KEY) as client:
        with pytest.raises(ApiError) as caught:
            client.submit({**BODY, "stores": []})
        assert (caught.value.status, caught.value.code, caught.value.field) == (422, "validation_error", "stores")
        with pytest.raises(ApiError) as caught:
            client.get_job("../jobs")
        assert caught.value.status == 404
        assert isinstance(caught.value, NotFound)


def test_a_url_that_is_none_is_unreachable() -> None:
    """An invalid URL is not a traceback of a library."""
    with pytest.raises(ApiUnreachable), IngestClient("http://[bad") as client:
        client.list_jobs()


def test_flags_do_not_disturb_a_file() -> None:
    """Flags that were not used leave the file unchanged."""
    request = {"source": {"bucket": "a", "prefix": "p"}, "collection": "c"}
    given = {"source.bucket": "b", "source.prefix": None, "stores": [], "chunking.max_chars": 5}
    assert merge_request(request, given) == {
        "source": {"bucket": "b", "prefix": "p"},
        "collection": "c",
        "chunking": {"max_chars": 5},
    }


def test_a_jobs_facts_use_the_plans_totals() -> None:
    """While the plan grows, its total is marked."""
    job = make_job(
        state="running",
        counts={"planned": 10, "done": 3, "failed": 1},
        progress=make_progress(planning_complete=False),
    )
    assert describe_facts(job) == ["4/10+ objects", "1 failed"]
    job.counts["objects_with_warnings"] = 2
    assert describe_facts(job) == ["4/10+ objects", "1 failed", "2 with warnings"]


def test_a_job_that_stands_still_shows_no_rate() -> None:
    """A mean of the past beside the reason of a wait reads like work that goes on; a slow job has both."""
    job = make_job(
        state="running",
        counts={"planned": 2, "chunks": 5},
        progress=make_progress(rates={"chunks_per_s": 7.9}),
        note="Ollama is unavailable.",
    )
    assert describe_facts(job) == ["0/2 objects", "5 chunks"]
    assert job.progress is not None
    job.progress.eta_s = 20.0
    assert describe_facts(job) == ["0/2 objects", "5 chunks", "7.9 chunks/s", "0:00:20 left"]
    embedding = {"in_flight": 1, "ahead": 0, "of": 1, "waited_s": 0}
    job.embedding = EmbeddingView.model_validate({**embedding, "queued": 7, "share": 0.253})
    assert describe_facts(job)[-2:] == ["25% of the embedder", "0:00:20 left"]
    job.embedding = EmbeddingView.model_validate(
        {**embedding, "queued": 0, "share": 0.0}
    )  # it waits for nothing there: its share is its own doing
    assert describe_facts(job)[-2:] == ["7.9 chunks/s", "0:00:20 left"]


def test_records_survive_their_table() -> None:
    """``from_row`` is the inverse of ``values``."""
    record = JobRecord("job-1", EngineName.RAY, "notes", JobState.QUEUED, {"a": 1}, "h", utc_now())
    assert JobRecord.from_row(record.values()) == record


@pytest.mark.parametrize(("arguments", "name"), [(("worker", "run"), "FILE"), (("submit", "--file"), "--file")])
def test_a_request_file_that_is_missing_is_named_as_it_was_given(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], name: str
) -> None:
    """As an argument or as an option."""
    assert run(*arguments, "none.json") == ExitCode.USAGE
    assert f"Invalid value for {name}: Cannot read 'none.json'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (PartitionReport(PARTITION, ReportStatus.DONE, 1), 0),
        (PartitionReport(PARTITION, ReportStatus.FATAL, 1), 3),
        (PartitionReport(PARTITION, ReportStatus.RETRY, 1), 7),
        (PartitionReport(PARTITION, ReportStatus.RETRY, 1, error={"code": "unexpected_error"}), 1),
    ],
)
def test_a_partition_run_alone_ends_with_its_status(
    monkeypatch: pytest.MonkeyPatch, report: PartitionReport, code: int
) -> None:
    """Scripts that run one partition again see that it was fatal."""
    monkeypatch.setattr("ingestion_engine.pipeline.worker.process_partition", lambda *_: report)
    assert run("worker", "partition", "--spec", "s3://b/jobs/j/spec.json", "--id", PARTITION) == code


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("s3://docs/a/b", ("docs", "a/b")),
        ("docs/a/b", ("docs", "a/b")),
        ("s3://docs", ("docs", "")),
        ("docs", ("docs", "")),
    ],
)
def test_every_command_reads_s3_locations_in_the_same_way(text: str, where: tuple[str, str]) -> None:
    """With or without the scheme, for submissions and uploads."""
    assert split_source(text, param_hint="SOURCE") == where


@pytest.mark.parametrize("text", ["./docs/handbook", "/docs", "https://host/docs", "s3:///docs", "s3a://docs/x"])
def test_what_is_no_s3_location_is_refused_by_every_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    """A path of this machine is not taken for a bucket."""
    (tmp_path / "a.txt").write_text("a")
    assert run("submit", text, "-c", "notes") == ExitCode.USAGE
    assert "Use s3://bucket/prefix." in capsys.readouterr().err
    assert run("upload", str(tmp_path), text) == ExitCode.USAGE
    assert "Use s3://bucket/prefix." in capsys.readouterr().err


def test_a_bad_name_is_explained_in_words(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """No regular expression reaches a user."""
    assert run("submit", "s3://docs", "-c", "my-notes") == ExitCode.REFUSED
    shown = capsys.readouterr().err
    assert "collection: a name consists of a letter, then letters, digits or '_', at most 128 characters" in shown
    assert "pattern" not in shown


def test_the_end_of_a_job_tells_waiting_from_running(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole time since the submission, its parts, and the note."""
    job = {"state": "succeeded", "queued_s": 37.0, "duration_s": 18.04}
    show_end(make_job(**job, note="No object matches s3://docs/hanbook/."))
    assert capsys.readouterr().out == (
        "job-1 succeeded after 55.0 s (37.0 s queued, 18.0 s running)\n  note: No object matches s3://docs/hanbook/.\n"
    )
    show_end(make_job(**{**job, "duration_s": None, "state": "canceled"}))
    assert capsys.readouterr().out == "job-1 canceled after 37.0 s without a start\n"


def test_the_points_of_the_stores_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """Equal ones are said once, a difference is named, and what is unknown is not shown."""
    equal = {"written": 12, "deleted": 3}
    job = {
        "state": "succeeded",
        "queued_s": 1.0,
        "duration_s": 1.0,
        "store_points": dict.fromkeys(("qdrant", "weaviate"), equal),
    }
    assert describe_points(make_job(**job)) == "12 written, 3 deleted in each of qdrant, weaviate"
    show_end(make_job(**job))
    assert "\n  points: 12 written, 3 deleted in each of qdrant, weaviate\n" in capsys.readouterr().out
    differing = {"qdrant": equal, "weaviate": {"written": 11, "deleted": 3, "found": None}}
    job["store_points"] = differing
    shown = "qdrant: 12 written, 3 deleted; weaviate: 11 written, 3 deleted (the stores differ)"
    assert describe_points(make_job(**job)) == shown
    job["store_points"] = {"qdrant": equal}
    assert describe_points(make_job(**job)) == "qdrant: 12 written, 3 deleted"
    for unknown in (None, {}, {"qdrant": {}, "weaviate": {}}):
        job["store_points"] = unknown
        assert describe_points(make_job(**job)) is None


def test_unchanged_objects_are_not_no_objects() -> None:
    """0/0 alone could be a prefix that matches nothing."""
    job = make_job(state="succeeded", counts={"planned": 0, "done": 0, "failed": 0, "skipped": 7})
    assert describe_facts(job) == ["0/0 objects", "7 unchanged or skipped"]


def test_a_log_is_followed_until_the_job_has_ended(service: Running) -> None:
    """What is written while the job runs, and what is written after its outcome; then it ends by itself."""
    service.outcome = {"state": "running"}
    written = [f"2026-01-31T12:00:0{n}.000Z INFO    driver line {n}\n" for n in range(4)]
    with IngestClient(service.url, KEY) as client:
        job_id = client.submit(BODY).job_id
        wait_for(lambda: client.get_job(job_id).state == "running", 20)
        ledger, pauses = Ledger(service.world.state, job_id), 0

        def go_on(_seconds: float) -> None:
            nonlocal pauses
            pauses += 1
            assert pauses < 50, "the log never ends"
            if pauses <= 3:
                ledger.write_log(1, "".join(written[: pauses + 1]))
            if pauses == 3:
                service.world.engine.finish(job_id)
                wait_for(lambda: client.get_job(job_id).state == "succeeded", 20)

        ledger.write_log(1, written[0])
        client._sleep = go_on
        assert list(client.follow_log(job_id)) == written


def test_following_the_log_of_a_job_that_has_ended_prints_it(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends with the log."""
    monkeypatch.setattr("ingestion_engine.client.routes.LOG_POLL_S", 0)
    with IngestClient(service.url, KEY) as client:
        job_id = client.submit(BODY).job_id
        client.wait(job_id, timeout_s=20)
    Ledger(service.world.state, job_id).write_log(1, "said the driver\nand ended")
    assert run("logs", job_id, "--follow") == 0
    assert capsys.readouterr().out == "said the driver\nand ended\n"


def test_jobs_are_filtered_by_owner_and_time(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """A moment that is none is refused by the service."""
    assert run("submit", "s3://docs/", "-c", "notes") == 0
    job_id = capsys.readouterr().out.split()[0]
    for options, expected in (
        (["--owner", "team"], [job_id]),
        (["--owner", "others"], []),
        (["--since", "2020-01-01T00:00:00Z"], [job_id]),
        (["--until", "2020-01-01T00:00:00Z"], []),
    ):
        assert run("jobs", *options, "--json") == 0
        assert [orjson.loads(line)["job_id"] for line in capsys.readouterr().out.splitlines()] == expected
    assert run("jobs", "--since", "yesterday") == ExitCode.REFUSED
    assert "2026-01-31T12:00:00Z" in capsys.readouterr().err


def test_failures_are_listed_and_retried_by_code(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Only those; a code that nothing failed with is refused by the service."""
    service.outcome = {"state": "partially_succeeded"}
    assert run("submit", "s3://docs/", "-c", "notes", "--watch") == ExitCode.PARTIALLY_SUCCEEDED
    job_id = capsys.readouterr().out.split()[0]
    items = [{"key": code, "code": code, "reason": None} for code in ("parse_failed", "no_text")]
    Ledger(service.world.state, job_id).write_failures("a01-00000", items)
    assert run("failures", job_id, "--code", "no_text") == 0
    assert capsys.readouterr().out.splitlines() == ["CODE\tKEY\tREASON", "no_text\tno_text\t-"]
    assert run("retry", job_id, "--code", "no_text", "--json") == 0
    assert orjson.loads(capsys.readouterr().out)["job_id"] != job_id


def test_chunks_are_shown_as_the_stores_hold_them(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, with whether the stores agree."""
    world = service.world
    make_collection(world, bucket="docs")
    for store, texts in ((world.qdrant, ("one", "two")), (world.weaviate, ("one", "2"))):
        for number, text in enumerate(texts):
            payload = {"object_id": make_object_id("docs", "a.md"), "key": "a.md", "text": text, "chunk_index": number}
            point = Point(PointId(f"a-{number}"), {**payload, "epoch": 1}, hash_vector("a", 8).astype(np.float32))
            store.collections["notes"][point.id] = point
    assert run("chunks", "notes", "a.md") == 0
    head = "CHUNK\tPAGE\tSTORES\tTEXT"
    assert capsys.readouterr().out.splitlines() == [head, "0\t-\tequal\tone", "1\t-\tdifferent: text\ttwo"]
    del world.weaviate.collections["notes"][PointId("a-1")]
    assert run("chunks", "notes", "a.md", "-n", "1") == 0
    assert "more than these 1 chunks" in capsys.readouterr().err
    assert run("chunks", "notes", "a.md", "--json") == 0
    assert [orjson.loads(line)["agreement"] for line in capsys.readouterr().out.splitlines()] == ["equal", "missing"]
    assert run("chunks", "notes", "none.txt") == ExitCode.REFUSED
    assert "ingest objects" in capsys.readouterr().err

    def away(_kind: str) -> None:
        raise TransientError("weaviate_unavailable", "Weaviate is unavailable.")

    world.weaviate.before_read = away
    assert run("chunks", "notes", "a.md") == 0
    shown = capsys.readouterr()
    assert "weaviate could not be read: Weaviate is unavailable." in shown.err
    assert "\tunknown\t" in shown.out


def test_objects_are_listed_by_folder(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders first, then the objects beside them."""
    make_collection(service.world)
    at = "2026-01-01T00:00:00Z"
    rows = [
        TableRow(key, "e", 1, at, "o", RowState.PRESENT, None, None, False, "f", 1, "", "", 1, "j", at)
        for key in ("a/1", "a/2", "b/1", "c")
    ]
    ObjectTable(service.world.state, "notes").append_run(rows, epoch=1, job_id="j")
    assert run("objects", "notes", "--folders") == 0
    assert [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["folder", "a/"],
        ["folder", "b/"],
        ["present", "c"],
    ]
    assert run("objects", "notes", "--folders", "--prefix", "a/", "--json") == 0
    assert [orjson.loads(line)["key"] for line in capsys.readouterr().out.splitlines()] == ["a/1", "a/2"]
    assert run("objects", "notes", "--folders", "--json") == 0
    assert orjson.loads(capsys.readouterr().out.splitlines()[0]) == {"folder": "a/"}


def test_a_search_marks_on_what_the_stores_differ(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing while they agree."""
    make_collection(service.world)
    assert run("search", "notes", "cats") == 0
    assert "differs" not in capsys.readouterr().out
    del service.world.weaviate.collections["notes"][PointId("0")]
    assert run("search", "notes", "cats") == 0
    assert "0.txt  differs: only_here" in capsys.readouterr().out


def test_an_alias_is_rolled_back_to_a_version(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """``--to`` names it; the same key moves it once."""
    for name in ("notes_1", "notes_2", "notes_3"):
        make_collection(service.world, name)
    at = "2026-01-01T00:00:00Z"
    versions = ("notes_2", "notes_1")
    alias = Alias("live", "notes_3", previous=versions, settled=True, job_id="job-1", job_created_at=at, moved_at=at)
    write_alias(service.world.state, alias)
    for options, expected in (
        (["--to", "notes_1"], "notes_1"),
        (["--to", "notes_1"], "notes_1"),
        (["--idempotency-key", "k"], "notes_3"),
        (["--idempotency-key", "k"], "notes_3"),
        ([], "notes_1"),
    ):
        assert run("aliases", "rollback", "live", *options, "--json") == 0
        assert orjson.loads(capsys.readouterr().out)["collection"] == expected
    assert run("aliases", "rollback", "live", "--to", "notes_9") == ExitCode.REFUSED


def test_the_audit_log_is_listed(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Newest first, with filters."""
    assert run("submit", "s3://docs/", "-c", "notes") == 0
    job_id = capsys.readouterr().out.split()[0]
    wait_for(lambda: run("audit", "--operation", "submit_ray_job", "--outcome", "done", "--json") == 0)
    [entry] = map(orjson.loads, capsys.readouterr().out.splitlines())
    assert (entry["who"], entry["job_id"]) == ("team", job_id)
    assert run("audit", "--job", job_id) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "TIME\tWHO\tFROM\tOPERATION\tABOUT\tOUTCOME\tCODE\tNUMBER"
    assert "\tteam\t127.0.0.1\tsubmit_ray_job\t" in lines[1]
    assert run("audit", "--who", "nobody", "--json") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("key", ["secret-key\n", "secret-kéy"])
def test_a_key_that_cannot_be_sent_is_named_by_its_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unused_url: str, key: str
) -> None:
    """Without the key."""
    monkeypatch.setenv("INGEST_API_KEY", key)
    assert run("jobs", "--url", unused_url) == ExitCode.UNEXPECTED
    shown = capsys.readouterr()
    assert "INGEST_API_KEY: The API key contains" in shown.err
    assert "secret" not in shown.out + shown.err


def test_an_argument_that_is_no_text_is_no_traceback(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes of the shell that are not UTF-8 reach Python as lone surrogates."""
    for arguments in (["search", "notes", "\udcff"], ["show", "\udcff"], ["submit", "s3://docs/\udcff", "-c", "notes"]):
        assert run(*arguments) == ExitCode.USAGE
        assert "not valid UTF-8" in capsys.readouterr().err


def test_commands_wait_for_a_service_that_is_busy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as it says, instead of failing in the middle of a list."""
    answers = [(429, problem(429, "rate_limited"), {"Retry-After": "0"}), (200, {"items": [], "next_cursor": None})]
    with serving({"*": lambda _body: answers.pop(0)}) as url:
        monkeypatch.setenv("INGEST_API_URL", url)
        assert run("jobs", "--json") == 0
    assert answers == []
