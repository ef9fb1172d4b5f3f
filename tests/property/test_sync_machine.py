"""Any sequence of edits, jobs, crashes and zombies: after every attempt the collection is what a plain model says.

A failure prints the shortest sequence that still fails, and a ``@reproduce_failure(...)``: put that above
``class SyncMachine`` and run this file to replay exactly it. ``pytest --hypothesis-seed=N`` replays a whole run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ingestion_engine.domain.ids import make_object_id
from ingestion_engine.domain.records import Document, Point, RawObject
from ingestion_engine.domain.spec import FrozenLimits, StoreName
from ingestion_engine.driver.driver import Driver, JobAttempt, Ports
from ingestion_engine.driver.plan import plan_thread
from ingestion_engine.pipeline import load
from ingestion_engine.pipeline.parsing.parse import parse_bytes
from ingestion_engine.state.collections import read_contract
from ingestion_engine.state.lease import read_lease
from ingestion_engine.state.ledger import Ledger
from ingestion_engine.state.object_table.table import ObjectTable
from support.doubles import Crash
from support.sync.model import Model, OpenWork, Request, Row
from support.sync.steps import (
    DAMAGES,
    FILTERS,
    KEYS,
    METADATA,
    PARAGRAPHS,
    QUIET,
    WAKES,
    Edit,
    Job,
    Trouble,
    changes,
    damage,
    troubles,
)
from support.sync.world import Attempt, Fault, MortalEngine, Process, Run, SeenState, SeenStore, VersionedBucket
from support.world import FAST, SkippingClock, World


@dataclass
class Sleeper:
    """A worker of a dead attempt that stands still, and when it wakes."""

    run: Run
    wake: str
    work: OpenWork


class SyncMachine(RuleBasedStateMachine):
    """One bucket, one collection, any history."""

    def __init__(self) -> None:
        super().__init__()
        limits = FAST.model_copy(update={"partition_objects": 2})
        self.bucket = VersionedBucket()
        self.world = World(bucket=self.bucket, limits=limits)
        self.state = self.world.state
        self.model = Model()
        self.jobs: list[Job] = []
        """Jobs that have not ended."""
        self.sleepers: list[Sleeper] = []

    def teardown(self) -> None:
        for sleeper in self.sleepers:
            sleeper.run.abandon()

    # -- rules --------------------------------------------------------------------------------------------------------

    @initialize(sizes=st.lists(st.integers(0, 6), min_size=len(KEYS), max_size=len(KEYS)))
    def fill(self, sizes: list[int]) -> None:
        """Put some objects of different lengths."""
        for number, (key, size) in enumerate(zip(KEYS, sizes, strict=True)):
            if size:
                Edit("put", key, tuple((number + i) % len(PARAGRAPHS) for i in range(size)), 0).apply(self.bucket)

    @rule(
        changes=changes,
        full=st.sampled_from([False, False, False, True]),
        chosen=st.sampled_from(["all", "all", *FILTERS]),
        metadata=st.sampled_from([0, 0, 1, 2]),
        flags=st.tuples(st.sampled_from([True, True, False]), st.booleans(), st.booleans()),
        parallelism=st.sampled_from([1, 3]),
        trouble=troubles,
    )
    def start(
        self,
        changes: list[Edit],
        full: bool,
        chosen: str,
        metadata: int,
        flags: tuple[bool, bool, bool],
        parallelism: int,
        trouble: Trouble,
    ) -> None:
        """Change the bucket, submit a job and run its first attempt."""
        self._change(changes)
        source, selects = FILTERS[chosen]
        delete_missing, allow_mass_delete, retry_failed = flags
        ledger = self.world.submit(
            source={"bucket": "docs", **source},
            mode="full" if full else "sync",
            metadata=METADATA[metadata],
            delete_missing=delete_missing,
            allow_mass_delete=allow_mass_delete,
            retry_failed=retry_failed,
            parallelism=parallelism,
        )
        request = Request(full, selects, METADATA[metadata], delete_missing, allow_mass_delete, retry_failed)
        self.run_attempt(Job(ledger, request), trouble)

    @precondition(lambda self: self.jobs)
    @rule(
        changes=changes,
        which=st.integers(0, 9),
        parallelism=st.sampled_from([1, 2, 5]),
        trouble=st.just(QUIET) | troubles,
    )
    def resume(self, changes: list[Edit], which: int, parallelism: int, trouble: Trouble) -> None:
        """Change the bucket and run the next attempt of a job that has not ended, with another parallelism."""
        self._change(changes)
        job = self.jobs.pop(which % len(self.jobs))
        spec = job.ledger.read_spec().model_copy(update={"parallelism": parallelism})
        self.state.put(f"jobs/{job.ledger.job_id}/spec.json", orjson.dumps(spec.model_dump(mode="json")))
        self.run_attempt(job, trouble)

    @precondition(lambda self: self.model.rows)
    @rule(which=st.integers(0, 20))
    def find_points_of_another_model(self, which: int) -> None:
        """Points that another model made stand in both stores, and their object was touched since."""
        settled = {k: row for k, row in self.model.rows.items() if k not in self.model.pending()}  # its job made it so
        keys = [key for key, row in sorted(settled.items()) if row.points and key in self.bucket.objects]
        if not keys:
            return
        key = keys[which % len(keys)]
        row = self.model.rows[key]
        for store in self.world.stores.values():
            held = store.collections["notes"]
            for point in [p for p in held.values() if p.payload["key"] == key]:
                payload = {**point.payload, "embedding_id": f"other-{point.payload['content_hash'][:16]}"}
                held[point.id] = Point(point.id, payload, -point.vector)
        points = {
            point_id: (
                {**payload, "embedding_id": f"other-{payload['content_hash'][:16]}"},
                _negated(vector),
            )
            for point_id, (payload, vector) in row.points.items()
        }
        self.model.rows[key] = Row(
            row.ref, row.state, row.code, row.metadata, row.job_id, points, row.chunk_count, row.digests
        )
        Edit("touch", key, (), 0).apply(self.bucket)

    @precondition(lambda self: self.model.is_exact)
    @rule(
        store=st.sampled_from(list(StoreName)),
        damages=st.lists(st.tuples(st.sampled_from(DAMAGES), st.integers(0, 40)), min_size=1, max_size=4),
        fault=st.none() | st.builds(Fault, st.sampled_from(["crash", "death", "outage", "lost"]), st.integers(1, 30)),
    )
    def damage_and_repair(self, store: StoreName, damages: list[tuple[str, int]], fault: Fault | None) -> None:
        """Damage one store behind the engine's back: verify names exactly that, repair mends it and embeds nothing."""
        held = self.world.stores[store].collections["notes"]
        before = {point.id: (point.payload, point.vector.tobytes()) for point in held.values()}
        foreign = sum(damage(held, kind, which) for kind, which in damages)
        after = {point.id: (point.payload, point.vector.tobytes()) for point in held.values()}
        changed = {i for i in before.keys() | after.keys() if before.get(i) != after.get(i)}
        owners = {(before.get(i) or after[i])[0]["object_id"] for i in changed}
        damaged = {key for key in self.model.rows if make_object_id("docs", key) in owners}
        embedded = len(self.world.embedder.texts)
        job = Job(self.world.submit(mode="verify"), Request())
        summary = self.run_comparison(job, None)
        assert summary is not None
        items, _ = job.ledger.read_failures(None, 100)
        assert {item["key"] for item in items if item["key"] in self.model.rows} == damaged
        assert summary["counts"]["foreign_points"] == foreign
        assert (summary["state"] == "succeeded") == (not damaged and not foreign)
        job = Job(self.world.submit(mode="repair", parallelism=1), Request())
        summary = self.run_comparison(job, fault) or self.run_comparison(job, None)
        assert summary is not None
        assert summary["error"] is None
        assert len(self.world.embedder.texts) == embedded
        self.check_all()

    def _change(self, changes: list[Edit]) -> None:
        for edit in changes:
            edit.apply(self.bucket)

    # -- one attempt --------------------------------------------------------------------------------------------------

    def run_attempt(self, job: Job, trouble: Trouble) -> None:
        """Run one attempt in trouble, then check everything."""
        job.attempts += 1
        attempt = Attempt(job.ledger, job.attempts, trouble.fault)
        work = OpenWork(attempt, job.ledger.job_id, job.request)
        self.model.open.append(work)
        self._arm(work, trouble)
        try:
            summary = self._drive(work, partial(self._note, work))
        except (Crash, BaseExceptionGroup):
            summary = None
        attempt.dead = True
        self.bucket.on_list = lambda: None
        self.bucket.on_fetch = self.bucket.on_head = lambda _key: None
        if attempt.frozen is not None:
            self.sleepers.append(Sleeper(attempt.frozen, trouble.wake, work))
        self.model.take_over(self.state)
        if summary is None:
            self.jobs.append(job)
        self._wake(lambda sleeper: sleeper.work is not work, late=True)
        self.check(work, summary)

    def run_comparison(self, job: Job, fault: Fault | None) -> dict[str, Any] | None:
        """Run one attempt of a verify or repair; None when it crashed."""
        job.attempts += 1
        attempt = Attempt(job.ledger, job.attempts, fault)
        try:
            return self._drive(OpenWork(attempt, job.ledger.job_id, job.request), lambda _run: None)
        except (Crash, BaseExceptionGroup):
            return None
        finally:
            attempt.dead = True

    def _arm(self, work: OpenWork, trouble: Trouble) -> None:
        calls = 0
        left = list(trouble.meanwhile)

        def on_list() -> None:
            self.model.take_over(self.state)
            work.planned_before = {
                path.rpartition("/")[2].removesuffix(".jsonl")
                for path in self.state.values
                if path.startswith(f"jobs/{work.job_id}/plan/")
            }
            self.model.plan(work, {key: self.bucket.ref(key) for key in self.bucket.objects})

        def on_call(key: str) -> None:
            nonlocal calls
            calls += 1
            for meanwhile in [m for m in left if m.nth == calls or (not m.nth and work.attempt.met_fault)]:
                left.remove(meanwhile)
                replace(meanwhile.edit, key=key).apply(self.bucket)

        self.bucket.on_list = on_list
        self.bucket.on_fetch = self.bucket.on_head = on_call

    def _note(self, work: OpenWork, run: Run) -> None:
        self.model.note_run(run)
        self.model.check_embedded(run, work.request)

    def _drive(self, work: OpenWork, after_run: Callable[[Run], None]) -> dict[str, Any] | None:
        attempt, clock = work.attempt, SkippingClock()
        process = Process(attempt)
        self._wake(lambda sleeper: sleeper.wake == "at once" and self._holds(sleeper), late=False)

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            if not attempt.steps:
                self._wake(lambda sleeper: sleeper.wake == "waiting" and not self._holds(sleeper), late=False)

        def before_run() -> None:
            self.model.take_over(self.state)
            self._wake(lambda sleeper: sleeper.wake == "running" and sleeper.work is not work, late=True)

        stores: dict[Any, Any] = {name: SeenStore(store, process) for name, store in self.world.stores.items()}
        engine = MortalEngine(
            self.state, self.bucket, self.world.embedder, self.world.stores, attempt, before_run, after_run
        )
        ledger = Ledger(SeenState(self.state, process), work.job_id)
        spec = ledger.read_spec()
        return Driver(
            JobAttempt(spec=spec, spec_uri=ledger.spec_uri, number=attempt.number, parser_version="parser-1"),
            Ports(
                state=ledger.store,
                source=self.bucket,
                embedder=self.world.embedder,
                stores=stores,
                engine=engine,
            ),
            sleep=sleep,
            clock=clock,
        ).run()

    def _holds(self, sleeper: Sleeper) -> bool:
        lease = read_lease(self.state, "notes")
        return lease is not None and lease.epoch == sleeper.run.epoch and not lease.released

    def _wake(self, chosen: Callable[[Sleeper], bool], *, late: bool) -> None:
        """Let sleepers go on. One that wakes after its successor began to write must not change anything any more."""
        for sleeper in [s for s in self.sleepers if chosen(s)]:
            self.sleepers.remove(sleeper)
            before = self.points()
            fenced = late and not self._holds(sleeper)
            sleeper.run.wake(late=fenced)
            if fenced:
                assert self.points() == before, "a zombie wrote"
            else:
                self.model.note_run(sleeper.run)
            self.model.check_embedded(sleeper.run, sleeper.work.request)

    # -- checks -------------------------------------------------------------------------------------------------------

    def points(self) -> dict[str, dict[Any, tuple[Mapping[str, Any], bytes]]]:
        """All points of both stores."""
        return {
            name.value: {p.id: (p.payload, p.vector.tobytes()) for p in store.collections.get("notes", {}).values()}
            for name, store in self.world.stores.items()
        }

    def check(self, work: OpenWork, summary: dict[str, Any] | None) -> None:
        """The stores, the table, the plan and the summary are as the model says."""
        ended = summary is not None and summary["state"] in {"succeeded", "partially_succeeded"}
        self.model.check_plan(work, self.state, whole=ended and summary["attempt"] == work.attempt.number)
        self.check_all()
        if summary is None or summary["attempt"] != work.attempt.number:
            return
        code = (summary["error"] or {}).get("code")
        if work.refused:
            assert code == "mass_delete_refused"
        else:
            assert code in {None, "job_aborted"}, summary["error"]
        if ended:
            counts = summary["counts"]
            assert counts["done"] + counts["failed"] + counts["skipped"] == counts["listed"], counts

    def check_all(self) -> None:
        """The stores and the object table are as the model says."""
        self.model.check_stores(self.points())
        contract = read_contract(self.state, "notes")
        if contract is not None:
            table = {row.key: row for row in ObjectTable(self.state, "notes").scan()}
            self.model.check_table(self.state, table, lambda metadata: contract.fingerprint("parser-1", dict(metadata)))


def _negated(vector: bytes) -> bytes:
    return (-np.frombuffer(vector, dtype=np.float32)).tobytes()


@pytest.fixture(autouse=True)
def in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything runs in the order in which it is called, so a sequence replays exactly; and faster."""

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def parse(raw: RawObject, *, limits: FrozenLimits) -> Document:
        return parse_bytes(raw, limits)

    monkeypatch.setattr("asyncio.to_thread", call)
    monkeypatch.setattr(load, "parse_object", parse)
    monkeypatch.setattr(plan_thread.PlanThread, "start", plan_thread.PlanThread._run)
    monkeypatch.setattr(plan_thread, "BLOCK_OBJECTS", 3)


PROFILE = settings(
    max_examples=300,
    stateful_step_count=8,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    derandomize=True,  # a change is judged by the same sequences everywhere; the nightly ones are new each time
)


@pytest.mark.parametrize("wake", WAKES)
def test_a_zombie_that_stood_at_any_step_is_fenced(wake: str) -> None:
    """Whatever a worker of the dead attempt was about to do, and whenever it goes on."""
    stood_at: set[str] = set()
    for step in itertools.count(1):
        machine = SyncMachine()
        machine.fill([3, 1, 0, 0, 0, 0, 0])
        job = Job(machine.world.submit(parallelism=1), Request())
        machine.run_attempt(job, Trouble(Fault("freeze", step, in_worker=True), wake, ()))
        if not machine.sleepers:
            break
        stood_at.add(str(machine.sleepers[0].run.stands_at).rpartition("/")[2])
        machine.run_attempt(machine.jobs.pop(), QUIET)
        assert not machine.sleepers
        assert not machine.model.loose
    assert {"lease.json", "qdrant", "weaviate"} <= stood_at
    assert any(name.startswith("a01-") for name in stood_at), "before its report"


@pytest.mark.timeout(900)
def test_sync_is_right_after_any_sequence() -> None:
    """Three hundred sequences of edits, jobs, crashes and zombies."""
    run_state_machine_as_test(SyncMachine, settings=PROFILE)


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
def test_sync_is_right_after_thousands_of_sequences() -> None:
    """The same, longer and more often."""
    run_state_machine_as_test(
        SyncMachine, settings=settings(PROFILE, max_examples=5000, stateful_step_count=20, derandomize=False)
    )
