"""The dispatcher: submission, reconciliation, cancel, restarts, over an engine that the test drives."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from pathlib import Path

import pytest

from ingestion_engine.domain.errors import FatalError, SubmissionError, TransientError
from ingestion_engine.domain.ports import Stored
from ingestion_engine.domain.states import EngineState
from ingestion_engine.services import leadership as leadership_module
from ingestion_engine.services.dispatcher import Dispatcher
from ingestion_engine.services.job_store import DispatchLease, JobStore
from ingestion_engine.services.ledgers import Ledgers
from ingestion_engine.services.shares import Grant
from ingestion_engine.state.ledger import Ledger
from support.control import BODY, World, overwrite, unreachable
from support.doubles import MemoryState


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_requests_in_flight_never_exceed_the_limit(world: World) -> None:
    """Through a whole life of many jobs over three servers; all of them run in the end, few partitions with more
    requests each.
    """
    async with world.serve(ollama={"urls": "http://a:1,http://b:1,http://c:1"}) as plane:
        sizes = [4, 5, 100, 1, 2, 8, 3]
        jobs = [await plane.submit(collection=f"c{n}", parallelism=size) for n, size in enumerate(sizes)]
        running: set[str] = set()
        seen: list[str] = []
        shares: dict[str, int] = {}
        for _ in range(50):
            await plane.look(3)
            running |= {reference[:-3] for reference in world.engine.submits} - set(seen)
            running -= set(seen)
            shares |= {job: Ledger(world.state, job).read_spec().limits.embed_in_flight for job in running}
            assert sum(world.engine.parallelism[job] * shares[job] for job in running) <= 8
            if not running:
                break
            oldest = min(running)
            world.engine.finish(oldest)
            seen.append(oldest)
        assert seen == jobs
        assert world.engine.parallelism[jobs[2]] == 8
        assert [shares[job] for job in jobs] == [1, 1, 1, 4, 1, 1, 1]


async def test_with_a_gateway_a_large_job_holds_up_no_small_ones(world: World) -> None:
    """Each gets the parallelism that it asks for; only the places on the engine are bounded, and the note says so."""
    gateway = {"url": "http://gateway:11430"}
    async with world.serve(gateway=gateway, ray={"max_jobs": 3}, embed={"in_flight": 2}) as plane:
        sizes = [100, 4, 1, 4, 4]
        jobs = [await plane.submit(collection=f"c{n}", parallelism=size) for n, size in enumerate(sizes)]
        await plane.look(3)
        assert world.engine.parallelism == dict(zip(jobs[:3], sizes[:3], strict=True))
        assert Ledger(world.state, jobs[0]).read_spec().limits.embed_in_flight == 8
        waiting = await plane.job(jobs[3])
        assert waiting["note"] == (
            "Waiting for a place on engine 'ray': 3 of 3 jobs are under way (INGEST_RAY__MAX_JOBS)."
        )
        world.engine.finish(jobs[1])
        await plane.look(3)
        assert (await plane.job(jobs[3]))["state"] == "submitted"
        assert (await plane.job(jobs[4]))["state"] == "queued"


async def test_a_job_keeps_the_share_it_was_first_given(world: World) -> None:
    """Its spec is written once; under a limit that has shrunk meanwhile it runs all the same, and alone."""
    servers = {"urls": "http://a:1,http://b:1"}
    async with world.serve(ollama=servers) as plane:
        world.engine.away = unreachable()
        first = await plane.submit(collection="a", parallelism=2)
        await plane.look()
        job = await plane.services.store.get(first)
        assert job is not None
        assert (job.admitted_at, job.grant) == (None, Grant(2, 2))
    world.engine.away = None
    async with world.serve(ollama=servers, embed={"in_flight": 2}) as plane:
        second = await plane.submit(collection="b", parallelism=1)
        await plane.look()
        assert Ledger(world.state, first).read_spec().limits.embed_in_flight == 2
        assert world.engine.parallelism == {first: 1}
        assert (await plane.job(second))["note"] == "Waiting for embedding capacity: needs 1, 0 of 2 requests are free."
        world.engine.finish(first)
        await plane.look(3)
        assert (await plane.job(second))["state"] == "submitted"


async def test_a_job_goes_from_queued_to_succeeded(world: World) -> None:
    """The ledger's progress and summary decide; times, counts and the spec are as they should be."""
    async with world.serve() as plane:
        job_id = await plane.submit(parallelism=3)
        await plane.look(1)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["attempt"], job["parallelism"]) == ("submitted", 1, 3)
        spec = Ledger(world.state, job_id).read_spec()
        assert (spec.parallelism, spec.limits.embed_in_flight, spec.model) == (3, 1, "all-minilm")
        world.engine.start(job_id)
        await plane.look(1)
        assert (await plane.job(job_id))["state"] == "running"
        world.engine.progress(job_id)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["progress"]["percent"], job["progress"]["eta_s"], job["counts"]["done"]) == (40.0, 6.0, 4)
        world.engine.finish(job_id, note="No object matches s3://docs/x.")
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"], job["duration_s"], job["progress"]["percent"]) == (
            "succeeded",
            None,
            60.0,
            100.0,
        )
        assert (job["queued_s"], job["note"]) == (0.0, "No object matches s3://docs/x.")
        assert world.engine.submits == [f"{job_id}-01"]


async def test_a_failed_job_shows_its_error_as_a_problem(world: World) -> None:
    """The code is the driver's own."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        error = FatalError("failure_budget_exceeded", "30 of 100 failed", hint="look", failed=30).record()
        world.engine.finish(job_id, "failed", error=error)
        await plane.look()
        job = await plane.job(job_id)
        assert job["state"] == "failed"
        assert job["error"]["code"] == "failure_budget_exceeded"
        assert job["error"]["type"] == "urn:ingestion-engine:problem:failure_budget_exceeded"
        assert (job["error"]["detail"], job["error"]["failed"]) == ("30 of 100 failed", 30)


async def test_a_dead_driver_is_followed_by_the_next_attempt(world: World) -> None:
    """Until max_attempts drivers have died; then the job fails with the engine's short detail."""
    async with world.serve(dispatch={"max_attempts": 2}) as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.die(job_id, 1)
        await plane.look(1)
        job = await plane.job(job_id)
        assert job["attempt"] == 2
        assert "Attempt 2 of 2 follows" in job["note"]
        world.clock.skip(60)
        await plane.look(1)
        assert world.engine.submits == [f"{job_id}-01", f"{job_id}-02"]
        world.engine.die(job_id, 2)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "driver_died")
        assert "the engine says ended" in job["error"]["detail"]


async def test_between_two_attempts_nothing_is_promised(world: World) -> None:
    """What was done stays shown; the rate and the remaining time of a dead driver do not."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.start(job_id)
        world.engine.progress(job_id, percent=13.3, eta_s=670.0, rates={"chunks_per_s": 2.5}, phase="running")
        await plane.look()
        assert (await plane.job(job_id))["progress"]["eta_s"] == 670.0
        other = await plane.submit(collection="other")
        await plane.look()
        world.engine.progress(other, eta_s=670.0)
        await plane.look()
        await plane.client.post(f"/jobs/{other}/cancel")
        canceling = await plane.job(other)
        assert (canceling["state"], canceling["progress"]["eta_s"]) == ("canceling", None)
        world.engine.die(job_id, 1)
        await plane.look()
        job = await plane.job(job_id)
        assert (job["state"], job["attempt"]) == ("running", 2)
        progress = job["progress"]
        shown = [progress[name] for name in ("phase", "percent", "eta_s", "rates")]
        assert shown == ["waiting", 13.3, None, {}]


async def test_a_state_store_that_hangs_is_said_in_the_note(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client repeats requests for most of a minute; the job would look as if it worked."""
    monkeypatch.setattr("ingestion_engine.services.reconciler.SLOW_S", 0.01)
    answers = threading.Event()
    answers.set()

    class Hanging(MemoryState):
        def get(self, path: str) -> Stored | None:
            if path.endswith("summary.json"):
                assert answers.wait(30)
            return super().get(path)

    world.state = Hanging()
    world.engine.state = world.state
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.progress(job_id)
        await plane.look()
        answers.clear()
        look = asyncio.create_task(plane.look(1))
        notes = set()
        async with asyncio.timeout(20):
            while "has not responded" not in "".join(notes):
                notes.add(str((await plane.job(job_id))["note"]))
        answers.set()
        await look
        world.engine.progress(job_id, updated_at="2026-01-01T00:00:01Z")
        await plane.look()
        job = await plane.job(job_id)
        assert (job["state"], job["note"]) == ("running", None)


async def test_a_driver_that_never_ran_has_not_died(world: World) -> None:
    """The error and the note say that nothing was started, and what to do is the engine's own advice: no log exists."""
    world.engine.can_start, world.engine.hint = False, "Check the account."
    async with world.serve(dispatch={"max_attempts": 2}) as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.die(job_id, 1)
        await plane.look(1)
        note = (await plane.job(job_id))["note"]
        assert note == "Attempt 2 of 2 follows. the engine says ended Check the account."
        world.clock.skip(60)
        await plane.look(1)
        world.engine.die(job_id, 2)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "engine_never_started")
        assert job["error"]["hint"] == "Check the account."


async def test_a_driver_that_can_never_start_is_not_waited_for(world: World) -> None:
    """The job fails with the engine's reason at once, and its attempt is stopped."""
    world.engine.can_start, world.engine.hint = False, "Correct the image."
    async with world.serve(dispatch={"pending_timeout_s": 900}) as plane:
        job_id = await plane.submit()
        await plane.look()
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "engine_never_started")
        assert "cannot start the driver. the engine says pending" in job["error"]["detail"]
        assert world.engine.stops == [f"{job_id}-01"]


async def test_a_summary_beats_a_dead_driver(world: World) -> None:
    """Also the summary of an earlier driver that was thought dead; its successor is stopped."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.die(job_id, 1)
        await plane.look(1)
        world.clock.skip(60)
        await plane.look(1)
        world.engine.start(job_id, 2)
        world.engine.finish(job_id, "succeeded", attempt=1)
        await plane.look(1)
        assert (await plane.job(job_id))["state"] == "succeeded"
        assert world.engine.stops == [f"{job_id}-02"]


async def test_a_queued_job_is_canceled_at_once(world: World) -> None:
    """Its engine never hears of it; canceling again changes nothing."""
    async with world.serve() as plane:
        first = await plane.submit()
        second = await plane.submit()
        await plane.look()
        assert "Waiting for job" in (await plane.job(second))["note"]
        answer = await plane.client.post(f"/jobs/{second}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "canceled")
        assert (await plane.client.post(f"/jobs/{second}/cancel")).json()["state"] == "canceled"
        world.engine.finish(first)
        await plane.look()
        assert world.engine.submits == [f"{first}-01"]


async def test_a_working_job_is_asked_first_and_stopped_after_the_grace(world: World) -> None:
    """Abort marker, then the engine's stop; without a summary the job is canceled when its driver is gone."""
    world.engine.obedient = False
    async with world.serve(dispatch={"cancel_grace_s": 600}) as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.start(job_id)
        await plane.look(1)
        assert (await plane.client.post(f"/jobs/{job_id}/cancel")).json()["state"] == "canceling"
        await plane.look(1)
        assert Ledger(world.state, job_id).is_aborted()
        world.clock.skip(500)
        await plane.look(1)
        assert world.engine.stops == []
        world.clock.skip(200)
        await plane.look(1)
        assert world.engine.stops == [f"{job_id}-01"]
        assert (await plane.job(job_id))["state"] == "canceling"
        world.engine.die(job_id)
        world.clock.skip(60)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"]) == ("canceled", None)


async def test_a_driver_that_heeds_the_marker_is_not_stopped(world: World) -> None:
    """Within the grace the engine is left alone, and the summary's counts are kept."""
    async with world.serve(dispatch={"cancel_grace_s": 3600}) as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.start(job_id)
        await plane.client.post(f"/jobs/{job_id}/cancel")
        await plane.look(1)
        error = FatalError("job_aborted", "The job was canceled.").record()
        world.engine.finish(job_id, "canceled", counts={"done": 3}, error=error)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["counts"], world.engine.stops) == ("canceled", {"done": 3}, [])
        assert (job["error"]["code"], job["error"]["title"]) == ("job_aborted", "Job canceled")


async def test_an_engine_that_is_away_is_asked_again_later(world: World) -> None:
    """The job shows why it waits and keeps its place; nothing is submitted twice."""
    async with world.serve() as plane:
        world.engine.away = unreachable()
        job_id = await plane.submit()
        await plane.look()
        job = await plane.job(job_id)
        assert job["state"] == "queued"
        assert "Ray cannot be reached" in job["note"]
        assert job["parallelism"] is None
        world.engine.away = None
        world.clock.skip(1)
        await plane.look()
        assert (await plane.job(job_id))["state"] == "submitted"
        assert world.engine.submits == [f"{job_id}-01"]


async def test_the_reason_stays_while_an_engine_is_tried_again(world: World) -> None:
    """A try may take half a minute; a job that waits is never without a note, and has none once it is accepted."""
    notes = []
    async with world.serve() as plane:

        async def read_note(job_id: str) -> None:
            notes.append((await plane.job(job_id))["note"])

        world.engine.away = unreachable()
        job_id = await plane.submit()
        await plane.look()
        world.engine.during_submit = read_note
        world.clock.skip(60)
        await plane.look()
        world.engine.away = None
        world.clock.skip(60)
        await plane.look()
        assert len(notes) == 2
        assert all("Ray cannot be reached" in note for note in notes)
        assert (await plane.job(job_id))["note"] is None


async def test_a_note_about_an_engine_says_what_to_do(world: World) -> None:
    """Also when the engine fails after it has accepted the job."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.away = TransientError("engine_access_denied", "No token.", hint="Set a token.")
        await plane.look(1)
        assert (await plane.job(job_id))["note"] == "No token. Set a token. Retrying."


@pytest.mark.parametrize(("asked_s", "pause_s"), [(30.0, 30), (86_400.0, 60)])
async def test_an_engine_that_says_when_is_asked_then(world: World, asked_s: float, pause_s: float) -> None:
    """The pause is what a busy engine asks for where our own is shorter, a minute at most."""
    async with world.serve() as plane:
        world.engine.away = TransientError("engine_busy", "slow down", retry_after_s=asked_s)
        job_id = await plane.submit()
        await plane.look()
        moment = world.clock() + dt.timedelta(seconds=pause_s)
        assert (await plane.job(job_id))["note"].endswith(f" at {moment:%H:%M:%S}Z.")
        world.engine.away = None
        world.clock.skip(pause_s - 1)
        await plane.look()
        assert (await plane.job(job_id))["state"] == "queued"
        world.clock.skip(1)
        await plane.look()
        assert (await plane.job(job_id))["state"] == "submitted"


async def test_many_jobs_that_find_one_outage_count_as_one(world: World) -> None:
    """The back-off grows with rounds, not with jobs."""
    async with world.serve() as plane:
        world.engine.away = unreachable()
        jobs = [await plane.submit(collection=f"c{number}", parallelism=1) for number in range(5)]
        await plane.look(3)
        for job_id in jobs:
            assert "Submission 1 failed" in (await plane.job(job_id))["note"]


async def test_an_uncertain_submission_keeps_its_share(world: World) -> None:
    """The driver may be running: no other job gets its part of the limit."""
    async with world.serve() as plane:
        world.engine.away = unreachable(maybe_started=True)
        first = await plane.submit(collection="a", parallelism=8)
        await plane.look()
        world.engine.away = None
        second = await plane.submit(collection="b", parallelism=1)
        await plane.look()
        assert (await plane.job(first))["parallelism"] == 8
        assert (await plane.job(second))["parallelism"] is None


async def test_a_refusing_engine_fails_the_job(world: World) -> None:
    """Trying again would not help."""
    world.engine.refuse = SubmissionError("engine_refused", "Ray refuses the job: no such thing")
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        job = await plane.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "engine_refused")


async def test_a_job_that_never_starts_fails(world: World) -> None:
    """After the deadline; its abort marker ends a driver that starts after all."""
    async with world.serve(dispatch={"pending_timeout_s": 900}) as plane:
        job_id = await plane.submit()
        await plane.look()
        world.clock.skip(899)
        await plane.look(1)
        assert (await plane.job(job_id))["state"] == "submitted"
        world.clock.skip(1)
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["error"]["code"]) == ("failed", "engine_never_started")
        assert Ledger(world.state, job_id).is_aborted()
        assert world.engine.stops == [f"{job_id}-01"]


async def test_a_restart_loses_nothing(world: World) -> None:
    """Queued, admitted and running jobs go on; a submission cut off by the crash is recognised, not doubled."""
    async with world.serve() as plane:
        running = await plane.submit(collection="a")
        await plane.look()
        world.engine.progress(running)
        cut_off = await plane.submit(collection="b")
        waiting = await plane.submit(collection="a")
        await plane.look()
        # As if the process had died between the engine's answer and the row's update.
        await overwrite(plane.services.store, cut_off, state="queued", attempt_started_at=None, submitted_at=None)
    async with world.serve() as plane:
        world.engine.finish(running)
        await plane.look(3)
        states = [(await plane.job(job))["state"] for job in (running, cut_off, waiting)]
        assert states == ["succeeded", "submitted", "submitted"]
        assert sorted(world.engine.attempts) == sorted(f"{job}-01" for job in (running, cut_off, waiting))
        assert (await plane.job(cut_off))["attempt"] == 1


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (b'{"state": "nonsense"}', "summary_invalid"),
        (b'{"state": "running"}', "summary_invalid"),
        (b'{"state": ["succeeded"]}', "summary_invalid"),
        (b"[]", "state_corrupt"),
        (b"{", "state_corrupt"),
    ],
)
async def test_a_summary_that_cannot_be_read_fails_its_job_alone(world: World, summary: bytes, code: str) -> None:
    """A state in which no job ends, or no JSON object: the job ends with the cause, all others go on."""
    async with world.serve() as plane:
        bad = await plane.submit(collection="a")
        good = await plane.submit(collection="b")
        await plane.look()
        world.state.put(f"jobs/{bad}/summary.json", summary)
        world.engine.finish(good)
        await plane.look()
        assert (await plane.job(good))["state"] == "succeeded"
        job = await plane.job(bad)
        assert (job["state"], job["error"]["code"]) == ("failed", code)


@pytest.mark.parametrize(
    "progress", [b"{", b'{"attempt": "one"}', b'{"attempt": 1, "counts": 3, "note": [], "rates": 7}']
)
async def test_a_progress_that_cannot_be_read_keeps_no_job_from_its_end(world: World, progress: bytes) -> None:
    """The driver writes it again in a second; the list of jobs and the job's end do not depend on it."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.start(job_id)
        world.state.put(f"jobs/{job_id}/progress.json", progress)
        await plane.look()
        assert [job["state"] for job in (await plane.client.get("/jobs")).json()["items"]] == ["running"]
        world.engine.finish(job_id)
        await plane.look()
        assert (await plane.job(job_id))["state"] == "succeeded"


async def test_a_state_store_that_is_away_changes_no_state(world: World) -> None:
    """An ended driver without a readable ledger is neither dead nor done."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        world.engine.finish(job_id)
        get = world.state.get

        def away(path: str) -> None:
            raise TransientError("state_unavailable", "the state store is unavailable")

        world.state.get = away  # type: ignore[method-assign,assignment]
        await plane.look(1)
        job = await plane.job(job_id)
        assert (job["state"], job["attempt"]) == ("submitted", 1)
        assert "unavailable" in job["note"]
        world.state.get = get  # type: ignore[method-assign]
        world.clock.skip(60)
        await plane.look(1)
        assert (await plane.job(job_id))["state"] == "succeeded"


async def test_a_job_that_is_canceled_during_its_submission_keeps_its_note(world: World) -> None:
    """The acceptance clears the note of a job that goes on, and of no other."""
    async with world.serve() as plane:
        world.engine.during_submit = lambda job_id: plane.client.post(f"/jobs/{job_id}/cancel")
        job_id = await plane.submit()
        await plane.look()
        job = await plane.job(job_id)
        assert (job["state"], job["note"]) == ("canceling", "Waiting for the driver to end.")


async def test_a_canceling_job_without_admission_ends_when_its_engine_does_not_know_it(world: World) -> None:
    """Version 0.1.0 could leave such a row; it must not hold its collection forever."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        row = {"state": "canceling", "admitted_at": None, "attempt": 0, "cancel_requested_at": world.clock.now}
        await overwrite(plane.services.store, job_id, **row)
        await plane.look(1)
        world.clock.skip(60)
        await plane.look(2)
        assert (await plane.job(job_id))["state"] == "canceled"


async def test_an_engine_that_forgot_a_fresh_attempt_is_given_time(world: World) -> None:
    """An attempt is not known for a moment after its submission; that is no death."""
    async with world.serve() as plane:
        job_id = await plane.submit()
        await plane.look()
        del world.engine.attempts[f"{job_id}-01"]
        await plane.look(1)
        assert (await plane.job(job_id))["attempt"] == 1
        world.clock.skip(60)
        await plane.look(1)
        assert (await plane.job(job_id))["attempt"] == 2


async def test_only_one_of_two_services_dispatches(world: World) -> None:
    """The second takes over when the first lets go."""
    store = await JobStore.open(world.settings().sqlalchemy_url)
    other = await JobStore.open(world.settings().sqlalchemy_url)
    try:
        assert await store.hold_dispatch("one", 60) == DispatchLease("one", 1)
        assert await other.hold_dispatch("two", 60) == DispatchLease("one", 1)
        assert await store.hold_dispatch("one", 60) == DispatchLease("one", 1)
        await store.release_dispatch("one")
        assert await other.hold_dispatch("two", 60) == DispatchLease("two", 2)
    finally:
        await store.close()
        await other.close()


async def test_a_service_that_stops_finishes_its_claim_to_dispatch(world: World) -> None:
    """A write that is cut off would keep SQLite locked for seconds; so the claim is completed, and released."""
    settings = world.settings()
    store = await JobStore.open(settings.sqlalchemy_url)
    hold, begun, held = store.hold_dispatch, asyncio.Event(), list[DispatchLease]()

    async def hold_dispatch(holder: str, ttl_s: float) -> DispatchLease:
        begun.set()
        held.append(await hold(holder, ttl_s))
        return held[-1]

    store.hold_dispatch = hold_dispatch  # type: ignore[method-assign]
    dispatcher = Dispatcher(settings, store, ledgers=Ledgers(world.state), engines={})
    running = asyncio.create_task(dispatcher.run())
    await begun.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert held == [DispatchLease(dispatcher.leadership.holder, 1)]
    assert await hold("another", 60) == DispatchLease("another", 2)
    await store.close()


async def test_a_database_that_hangs_does_not_keep_the_service_from_stopping(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for the claim is bounded."""
    monkeypatch.setattr(leadership_module, "STOP_WAIT_S", 0.01)
    settings = world.settings()
    store = await JobStore.open(settings.sqlalchemy_url)
    begun = asyncio.Event()

    async def hang(_holder: str, _ttl_s: float) -> DispatchLease:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    store.hold_dispatch = hang  # type: ignore[method-assign]
    running = asyncio.create_task(Dispatcher(settings, store, ledgers=Ledgers(world.state), engines={}).run())
    await begun.wait()
    running.cancel()
    await asyncio.wait([running], timeout=60)
    assert running.cancelled()
    await store.close()


async def test_the_running_service_dispatches_by_itself(world: World) -> None:
    """A submission wakes the dispatcher; nobody waits for its pause."""
    async with world.serve(background=True, dispatch={"poll_s": 3600}) as plane:
        answer = await plane.client.post("/ray/jobs", json=BODY)
        async with asyncio.timeout(5):
            while f"{answer.json()['job_id']}-01" not in world.engine.submits:  # noqa: ASYNC110 - the double has no event
                await asyncio.sleep(0.01)
        assert world.engine.attempts[f"{answer.json()['job_id']}-01"] is EngineState.PENDING
