"""Whole jobs behind gateways and servers that die, hang or answer wrongly: the stores hold what they hold without."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.settings import S3Settings, Settings
from support.buckets import new_bucket
from support.gateway_jobs import JobWorld
from support.vector_stores import make_settings
from support.waiting import wait_for

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gateways import run_gateways
from http_server import ask, run_server

OBJECTS = 24
PARAGRAPHS = 20
SERVERS = 4
COSTS = ("--request-ms", "20", "--text-ms", "30")
"""480 texts on four servers take about four seconds: time to break something in mid-job."""

Stored = dict[StoreName, dict[str, tuple[dict[str, Any], bytes]]]


class Embedders:
    """The simulated servers of a test."""

    def __init__(self, urls: list[str], control: str) -> None:
        self.urls, self.control = urls, control

    def answered(self) -> int:
        """Return the number of texts that were answered since the last reset."""
        return int(ask(f"{self.control}/sim/counters")["texts"])

    def failed(self) -> int:
        """Return the number of requests that got an error or no answer since the last reset."""
        return int(ask(f"{self.control}/sim/counters")["outcomes"]["failed"])

    def wait_until(self, share: float) -> None:
        """Wait until this share of a job's texts was answered."""
        wait_for(lambda: self.answered() >= share * OBJECTS * PARAGRAPHS, every_s=0.01)

    def arm(self, server: int, kind: str, **values: object) -> None:
        """Break a server."""
        ask(f"{self.control}/sim/faults", {"endpoint": server, "kind": kind, **values})

    def repair(self) -> None:
        """Repair all servers."""
        ask(f"{self.control}/sim/faults", {"armed": False})


@pytest.fixture
def embedders() -> Iterator[Embedders]:
    with run_server("sim_ollama.py", "--endpoints", str(SERVERS), *COSTS) as fields:
        yield Embedders(fields["urls"], fields["control"])


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s3_settings: S3Settings
) -> Iterator[JobWorld]:
    """A bucket with objects, and both stores."""
    state = tmp_path_factory.mktemp("state")
    stores = make_settings(request)
    settings = Settings(s3=s3_settings, qdrant=stores.qdrant, weaviate=stores.weaviate, state_url=f"file://{state}")
    with new_bucket(s3_settings) as bucket:
        world = JobWorld(settings, bucket)
        world.put_objects(OBJECTS, PARAGRAPHS)
        yield world


@pytest.fixture(scope="module")
def undisturbed(world: JobWorld) -> Stored:
    """What a job without a gateway leaves in both stores."""
    with (
        run_server("sim_ollama.py", "--endpoints", str(SERVERS)) as fields,
        world.running("undisturbed", servers=fields["urls"]) as job,
    ):
        summary = job.wait()
    found = world.read_points("undisturbed")
    assert summary["counts"]["chunks"] == OBJECTS * PARAGRAPHS
    assert {name: len(points) for name, points in found.items()} == dict.fromkeys(StoreName, OBJECTS * PARAGRAPHS)
    return found


def test_a_gateway_that_is_killed_and_restarted_costs_no_point(
    world: JobWorld, embedders: Embedders, undisturbed: Stored
) -> None:
    """SIGKILL in mid-job, a new process on the same port: the job waits for it and leaves the same points."""
    with (
        run_gateways(embedders.urls) as (gateway,),
        world.running("killed", servers=embedders.urls, gateways=[gateway.url]) as job,
    ):
        embedders.wait_until(0.3)
        gateway.kill()
        assert embedders.answered() < OBJECTS * PARAGRAPHS
        assert job.process.poll() is None
        gateway.start()
        job.wait()
    assert world.read_points("killed") == undisturbed


def test_of_two_gateways_one_may_be_killed(world: JobWorld, embedders: Embedders, undisturbed: Stored) -> None:
    """The other takes over all servers, and the job leaves the same points."""
    with (
        run_gateways(embedders.urls, count=2) as gateways,
        world.running("one_of_two", servers=embedders.urls, gateways=[one.url for one in gateways]) as job,
    ):
        embedders.wait_until(0.3)
        gateways[0].kill()
        assert embedders.answered() < OBJECTS * PARAGRAPHS
        job.wait()
    assert world.read_points("one_of_two") == undisturbed


def test_servers_that_break_one_after_another_cost_no_point(
    world: JobWorld, embedders: Embedders, undisturbed: Stored
) -> None:
    """Errors, dropped connections, a dead server and one with another digest, each at another server in one job."""
    with (
        run_gateways(embedders.urls) as (gateway,),
        world.running("broken", servers=embedders.urls, gateways=[gateway.url]) as job,
    ):
        embedders.wait_until(0.1)
        embedders.arm(0, "error", status=503, count=3)
        embedders.arm(1, "error", status=500, count=3)
        embedders.wait_until(0.3)
        embedders.arm(2, "error", status=400, count=3)
        embedders.arm(3, "drop", count=3)
        embedders.wait_until(0.5)
        embedders.arm(1, "digest")
        embedders.arm(2, "refuse")
        job.wait()
    assert world.read_points("broken") == undisturbed


def test_a_plain_proxy_in_place_of_the_gateway_gives_the_same_points(
    world: JobWorld, embedders: Embedders, undisturbed: Stored
) -> None:
    """No queue, no caps, no fairness: whether it is configured as the server or as the gateway."""
    with run_server("pass_through.py", *embedders.urls) as proxy:
        with world.running("proxied", servers=proxy["urls"]) as job:
            job.wait()
        with world.running("as_gateway", servers=embedders.urls, gateways=proxy["urls"]) as job:
            job.wait()
    assert world.read_points("proxied") == undisturbed
    assert world.read_points("as_gateway") == undisturbed


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_gateways_that_die_again_and_again_cost_no_point(
    world: JobWorld, embedders: Embedders, undisturbed: Stored
) -> None:
    """Two gateways take turns in being killed and started, ten times in one job."""
    with (
        run_gateways(embedders.urls, count=2) as gateways,
        world.running("again_and_again", servers=embedders.urls, gateways=[one.url for one in gateways]) as job,
    ):
        for turn in range(10):
            embedders.wait_until(0.05 + turn * 0.09)
            gateways[turn % 2].kill()
            gateways[turn % 2].start()
        job.wait()
    assert world.read_points("again_and_again") == undisturbed


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_gateway_or_a_server_that_freezes_costs_no_point(
    world: JobWorld, embedders: Embedders, undisturbed: Stored
) -> None:
    """A frozen gateway is silent, and its requests go to the other one; a server that hangs is given up."""
    with (
        run_gateways(embedders.urls, count=2) as gateways,
        world.running("frozen", servers=embedders.urls, gateways=[one.url for one in gateways]) as job,
    ):
        embedders.wait_until(0.3)
        gateways[0].pause()
        embedders.arm(0, "hang")
        job.wait()
        gateways[0].resume()
    embedders.repair()
    assert world.read_points("frozen") == undisturbed


@pytest.mark.parametrize("is_through_gateway", [False, True], ids=["direct", "gateway"])
@pytest.mark.parametrize("kind", ["error", "drop"])
def test_an_outage_in_which_all_servers_answer_blames_no_object(
    world: JobWorld, embedders: Embedders, undisturbed: Stored, kind: str, *, is_through_gateway: bool
) -> None:
    """Every request fails for seconds, more often than a text may: plain texts fail too, so no text is at fault."""
    collection = f"outage_{kind}_{'gateway' if is_through_gateway else 'direct'}"
    with contextlib.ExitStack() as stack:
        gateways = stack.enter_context(run_gateways(embedders.urls)) if is_through_gateway else []
        urls = [gateway.url for gateway in gateways]
        job = stack.enter_context(world.running(collection, servers=embedders.urls, gateways=urls))
        embedders.wait_until(0.2)
        before = embedders.failed()
        for server in range(SERVERS):
            embedders.arm(server, kind, **({"status": 500} if kind == "error" else {}))
        wait_for(lambda: embedders.failed() - before > 24, every_s=0.05)
        embedders.repair()
        job.wait()
    assert world.read_points(collection) == undisturbed


_POISON = "Paragraph 7 of object 11 "
"""Begins one text of 480, in the middle of the eleventh object."""


@pytest.mark.parametrize(
    ("kind", "status", "is_through_gateway"),
    [("error", 400, False), ("error", 500, True), ("empty", 0, False), ("empty", 0, True), ("drop", 0, True)],
    ids=["400 EOF", "500, gateway", "empty vector", "empty vector, gateway", "server dies, gateway"],
)
def test_a_text_that_breaks_the_embedder_fails_its_object_only(
    world: JobWorld, embedders: Embedders, undisturbed: Stored, kind: str, status: int, *, is_through_gateway: bool
) -> None:
    """Each time, on each server: the job ends and names the object; all others are stored as ever."""
    for server in range(SERVERS):
        embedders.arm(server, kind, marker=_POISON, **({"status": status} if status else {}))
    collection = f"poison_{kind}_{status}_{'gateway' if is_through_gateway else 'direct'}"
    with contextlib.ExitStack() as stack:
        gateways = stack.enter_context(run_gateways(embedders.urls)) if is_through_gateway else []
        urls = [gateway.url for gateway in gateways]
        job = stack.enter_context(world.running(collection, servers=embedders.urls, gateways=urls))
        job.wait("partially_succeeded")
        failures, _ = job.ledger.read_failures(None, 10)
    assert [(failure["key"], failure["code"]) for failure in failures] == [("011.txt", "embedding_failed")]
    assert "chunk 7 (characters" in failures[0]["reason"]
    others = {
        name: {point_id: point for point_id, point in points.items() if point[0]["key"] != "011.txt"}
        for name, points in undisturbed.items()
    }
    assert world.read_points(collection) == others
