"""The lease: one writer per collection, higher epochs for successors, and zombies that notice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.errors import JobAborted, LeaseLost, TransientError
from ingestion_engine.domain.ports import Stored
from ingestion_engine.state.lease import HeldLease, LeaseCheck, acquire, read_lease
from ingestion_engine.state.ledger import Ledger
from support.faulty_state import FaultyStore

TTL_S = 30.0
GRACE_S = 35.0


class Clock:
    """Seconds that pass only by sleeping; ``on_sleep`` is what the rest of the world does meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_sleep: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def store(tmp_path: Path) -> FaultyStore:
    return FaultyStore(LocalStateStore(f"file://{tmp_path}/state"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def take(store: FaultyStore, clock: Clock, job_id: str, attempt: int = 1, **options: Callable[[], bool]) -> HeldLease:
    return acquire(
        store,
        "docs",
        job_id,
        attempt,
        ttl_s=TTL_S,
        grace_s=GRACE_S,
        clock=clock,
        sleep=clock.sleep,
        wall_clock=lambda: 0.0,
        **options,
    )


def test_a_free_collection_is_taken_at_once(store: FaultyStore, clock: Clock) -> None:
    """Nobody waits for a collection that was never written to; its first epoch is 1."""
    held = take(store, clock, "job-a")
    assert held.epoch == 1
    assert clock.now == 1000.0
    held.check()


def test_an_epoch_is_at_least_the_unix_time_and_above_the_stored_one(store: FaultyStore, clock: Clock) -> None:
    """A restored state store gives no epoch below those of the points; a clock that is behind gives no equal ones."""
    epochs = []
    for number, now in enumerate((500.9, 90.0, 700.0), start=1):
        times = {"clock": clock, "wall_clock": iter([now]).__next__}
        held = acquire(store, "docs", "job-a", number, ttl_s=TTL_S, grace_s=GRACE_S, **times)
        epochs.append(held.epoch)
        held.release()
    assert epochs == [500, 501, 700]


def test_a_released_lease_is_taken_at_once_under_a_higher_epoch(store: FaultyStore, clock: Clock) -> None:
    """Release ends the waiting but keeps the epoch, so epochs only ever grow."""
    epochs = []
    for job_id in ("job-a", "job-b", "job-a"):
        held = take(store, clock, job_id)
        epochs.append(held.epoch)
        held.release()
        with pytest.raises(LeaseLost):
            held.check()
    assert epochs == [1, 2, 3]
    assert clock.now == 1000.0


def test_a_dead_holder_is_waited_for_a_ttl_and_a_grace(store: FaultyStore, clock: Clock) -> None:
    """A successor writes no earlier than ttl + grace after the last heartbeat, and soon after."""
    take(store, clock, "job-a")
    held = take(store, clock, "job-b")
    assert held.epoch == 2
    assert TTL_S + GRACE_S <= clock.now - 1000.0 <= TTL_S * 1.1 + GRACE_S
    held.check()


def test_a_living_holder_is_never_taken_over(store: FaultyStore, clock: Clock) -> None:
    """Any heartbeat starts the successor's waiting anew, whatever the holder's own clock says."""
    holder = take(store, clock, "job-a")
    renewals = 0

    def renew() -> None:
        nonlocal renewals
        if clock.now - 1000.0 >= (renewals + 1) * 20 and renewals < 10:
            renewals += 1
            holder.renew()

    clock.on_sleep = renew
    held = take(store, clock, "job-b")
    assert renewals == 10
    assert clock.now - 1000.0 >= 10 * 20 + TTL_S + GRACE_S
    assert held.epoch == 2
    with pytest.raises(LeaseLost):
        holder.renew()


def test_the_successor_keeps_its_lease_alive_during_the_grace(store: FaultyStore, clock: Clock) -> None:
    """A grace longer than the ttl does not make the successor look dead to a third driver."""
    take(store, clock, "job-a")
    counters: list[int] = []

    def watch() -> None:
        lease = read_lease(store, "docs")
        assert lease is not None
        if lease.job_id == "job-b":
            counters.append(lease.counter)

    clock.on_sleep = watch
    take(store, clock, "job-b")
    assert len(set(counters)) >= 3


def test_the_same_attempt_restarted_takes_over_the_normal_way(store: FaultyStore, clock: Clock) -> None:
    """A restarted process cannot know that its predecessor is dead: it waits and gets a new epoch."""
    first = take(store, clock, "job-a")
    second = take(store, clock, "job-a")
    assert (first.epoch, second.epoch) == (1, 2)
    assert clock.now >= 1000.0 + TTL_S + GRACE_S
    with pytest.raises(LeaseLost):
        first.renew()


@pytest.mark.parametrize("released", [True, False])
def test_an_earlier_attempt_never_takes_from_a_later_one(store: FaultyStore, clock: Clock, released: bool) -> None:
    """A zombie driver that comes late is refused at once, even when its successor has finished."""
    later = take(store, clock, "job-a", 2)
    if released:
        later.release()
    with pytest.raises(LeaseLost):
        take(store, clock, "job-a", 1)
    assert clock.now == 1000.0


def test_two_drivers_at_the_same_moment_get_different_epochs(tmp_path: Path) -> None:
    """A conditional write decides; the loser waits until the winner releases."""
    store = LocalStateStore(f"file://{tmp_path}/state")
    barrier = threading.Barrier(4)
    inside, most, epochs = 0, 0, []
    lock = threading.Lock()

    def drive(number: int) -> None:
        nonlocal inside, most
        barrier.wait()
        held = acquire(store, "docs", f"job-{number}", 1, ttl_s=2.0, grace_s=0.1, wall_clock=lambda: 0.0)
        with held.keep_alive():
            with lock:
                inside += 1
                most = max(most, inside)
            held.check()
            with lock:
                epochs.append(held.epoch)
                inside -= 1
        held.release()

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert epochs == [1, 2, 3, 4]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", [1, 2, 3])
def test_lost_answers_do_not_lose_the_lease(store: FaultyStore, clock: Clock, write: int, after: bool) -> None:
    """A write whose answer is lost, applied or not, neither drops our lease nor gives out an epoch twice."""
    store.fail_at, store.after, store.lost_answer = write, after, True
    held = take(store, clock, "job-a")
    assert held.epoch == 1
    for _ in range(3):
        while held.renew_step() != TTL_S / 3:
            held.check()
    lease = read_lease(store, "docs")
    assert lease is not None
    assert (lease.epoch, lease.released) == (held.epoch, False)
    held.release()
    assert take(store, clock, "job-b").epoch == held.epoch + 1


def test_a_released_lease_with_a_lost_answer_is_not_ours_any_more(store: FaultyStore, clock: Clock) -> None:
    """After a release that arrived silently, renewing does not bring the lease back."""
    held = take(store, clock, "job-a")
    store.fail_at, store.after, store.lost_answer = store.writes + 1, True, True
    held.release()
    with pytest.raises(LeaseLost):
        held.renew()
    assert take(store, clock, "job-b").epoch == 2


def test_an_outage_of_any_length_does_not_lose_the_lease(store: FaultyStore, clock: Clock) -> None:
    """The holder goes on through a short outage, and pauses while a successor could have taken over; none could."""
    held = take(store, clock, "job-a")
    store.away = True
    clock.now += TTL_S - 1
    assert held.renew_step() == TTL_S / 10
    held.check()
    store.away = False
    assert held.renew_step() == TTL_S / 3
    store.away = True
    clock.now += TTL_S
    assert held.renew_step() == TTL_S / 10
    with pytest.raises(TransientError, match="could not be renewed for 30 s"):
        held.check()
    clock.now += 10 * TTL_S
    with pytest.raises(TransientError):
        held.check()
    store.away = False
    assert held.renew_step() == TTL_S / 3
    held.check()
    assert held.epoch == 1
    lease = read_lease(store, "docs")
    assert lease is not None
    assert (lease.epoch, lease.counter) == (1, 2)


def test_a_lease_that_was_taken_during_an_outage_is_lost(store: FaultyStore, clock: Clock, tmp_path: Path) -> None:
    """Only this driver was cut off: another one took over, and the first one stops for good."""
    held = take(store, clock, "job-a")
    store.away = True
    other = take(FaultyStore(LocalStateStore(f"file://{tmp_path}/state")), clock, "job-b")
    with pytest.raises(TransientError):
        held.check()
    store.away = False
    assert held.renew_step() is None
    for _ in range(2):
        with pytest.raises(LeaseLost):
            held.check()
    other.check()


def test_after_an_outage_the_holder_is_faster_than_a_waiting_driver(store: FaultyStore, clock: Clock) -> None:
    """Time in which nobody could renew does not count as silence of the holder."""
    holder = take(store, clock, "job-a")
    steps: list[float] = []

    def live() -> None:
        age = clock.now - 1000.0
        store.away = 10 <= age < 200
        if 1000.0 + age >= (steps[-1] if steps else 1000.0) and age < 300:
            pause_s = holder.renew_step()
            assert pause_s is not None
            steps.append(clock.now + pause_s)

    clock.on_sleep = live
    assert take(store, clock, "job-b").epoch == 2
    assert clock.now - 1000.0 >= 300 + TTL_S * 2 / 3 + GRACE_S, "the holder kept the lease until it stopped renewing"


def test_a_successor_is_not_let_go_with_an_unconfirmed_lease(store: FaultyStore, clock: Clock) -> None:
    """An outage that begins in the grace and outlasts it is waited for, under the epoch that was taken."""
    take(store, clock, "job-a")

    def toggle() -> None:
        store.away = 40 <= clock.now - 1000.0 < 200

    clock.on_sleep = toggle
    held = take(store, clock, "job-b")
    assert held.epoch == 2
    assert 200 <= clock.now - 1000.0 <= 210
    held.check()


def test_unexpected_errors_lose_the_lease_in_time(
    store: FaultyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect is no outage: nothing says that it ever ends."""
    held = take(store, clock, "job-a")

    def fail(*_: object) -> str:
        raise ValueError("defect")

    monkeypatch.setattr(store, "replace", fail)
    assert held.renew_step() == TTL_S / 10
    clock.now += TTL_S
    assert held.renew_step() is None
    with pytest.raises(LeaseLost, match="defect"):
        held.check()


def test_an_unexpected_error_does_not_end_the_renewals(store: FaultyStore, clock: Clock) -> None:
    """A defect in one renewal is logged; the next one keeps the lease."""
    held = take(store, clock, "job-a")
    replace_value, answers = store.replace, [KeyError("ETag")]

    def replace(path: str, data: bytes, version: str) -> str:
        if answers:
            raise answers.pop()
        return replace_value(path, data, version)

    store.replace = replace  # type: ignore[method-assign]  # an answer that no adapter expects
    clock.now += TTL_S - 1
    assert held.renew_step() == TTL_S / 10
    assert held.renew_step() == TTL_S / 3
    clock.now += TTL_S - 1
    held.check()


def test_an_outage_does_not_count_as_a_heartbeat_for_the_successor(store: FaultyStore, clock: Clock) -> None:
    """A waiting driver waits through an outage of the state store and then goes by what it reads."""
    take(store, clock, "job-a")

    def toggle() -> None:
        store.away = 5 <= clock.now - 1000.0 < 20

    clock.on_sleep = toggle
    assert take(store, clock, "job-b").epoch == 2
    assert clock.now >= 1000.0 + TTL_S + GRACE_S


def test_a_driver_stopped_in_its_grace_leaves_the_next_one_to_wait(store: FaultyStore, clock: Clock) -> None:
    """Stopping during the grace must not release: the dead holder's workers may still be writing."""
    take(store, clock, "job-a")
    with pytest.raises(JobAborted):
        take(store, clock, "job-b", should_stop=lambda: clock.now - 1000.0 > TTL_S * 1.2)
    stopped_at = clock.now
    held = take(store, clock, "job-c")
    assert held.epoch == 3
    assert clock.now - stopped_at >= TTL_S + GRACE_S


def test_what_should_stop_raises_passes_through(store: FaultyStore, clock: Clock) -> None:
    """The caller's own reason to stop reaches the caller."""

    def should_stop() -> bool:
        raise TransientError("budget", "enough")

    with pytest.raises(TransientError, match="enough"):
        take(store, clock, "job-a", should_stop=should_stop)


def test_keep_alive_renews_in_the_background(tmp_path: Path) -> None:
    """The counter advances while the block runs, and the thread ends with it."""
    store = LocalStateStore(f"file://{tmp_path}/state")
    held = acquire(store, "docs", "job-a", 1, ttl_s=3.0, grace_s=0, wall_clock=lambda: 0.0)
    advanced = threading.Event()
    real_replace = store.replace

    def replace(path: str, data: bytes, version: str) -> str:
        result = real_replace(path, data, version)
        advanced.set()
        return result

    store.replace = replace  # type: ignore[method-assign]
    with held.keep_alive() as same:
        assert same is held
        assert advanced.wait(10)
        held.check()
    assert not [thread for thread in threading.enumerate() if thread.name == "lease-docs"]


def test_keep_alive_remembers_that_the_lease_was_lost(tmp_path: Path, clock: Clock) -> None:
    """When somebody else takes the lease, ``check`` raises from then on."""
    store = LocalStateStore(f"file://{tmp_path}/state")
    held = acquire(store, "docs", "job-a", 1, ttl_s=3.0, grace_s=0, wall_clock=lambda: 0.0)
    take(FaultyStore(store), clock, "job-b")
    with held.keep_alive():
        thread = next(thread for thread in threading.enumerate() if thread.name == "lease-docs")
        thread.join(10)
        assert not thread.is_alive()
        with pytest.raises(LeaseLost) as lost:
            held.check()
    assert lost.value.context["stored_epoch"] == 2


class TestLeaseCheck:
    """What a worker knows of its driver's lease."""

    def check_of(self, store: FaultyStore, clock: Clock, epoch: int = 1) -> LeaseCheck:
        return LeaseCheck(store, "docs", "job-a", epoch, max_age_s=2.0, clock=clock)

    def test_reads_at_most_every_max_age(self, store: FaultyStore, clock: Clock) -> None:
        """Checks in between cost no request."""
        take(store, clock, "job-a")
        check = self.check_of(store, clock)
        store.reads = 0
        for _ in range(10):
            check.check()
        assert store.reads == 2
        clock.now += 2.0
        check.check()
        assert store.reads == 4

    def test_notices_a_successor(self, store: FaultyStore, clock: Clock) -> None:
        """A zombie's worker stops within max_age of the takeover, and for good."""
        take(store, clock, "job-a")
        check = self.check_of(store, clock)
        check.check()
        take(store, clock, "job-a", 2)
        for _ in range(2):
            with pytest.raises(LeaseLost):
                check.check()

    def test_notices_a_release(self, store: FaultyStore, clock: Clock) -> None:
        """Nobody writes for a job that has ended."""
        held = take(store, clock, "job-a")
        held.release()
        with pytest.raises(LeaseLost, match="released"):
            self.check_of(store, clock).check()

    def test_without_a_lease_nobody_may_write(self, store: FaultyStore, clock: Clock) -> None:
        """A missing lease is a lost one."""
        with pytest.raises(LeaseLost, match="nobody"):
            self.check_of(store, clock).check()

    def test_notices_an_abort(self, store: FaultyStore, clock: Clock) -> None:
        """A canceled job's workers stop although the lease is still held."""
        take(store, clock, "job-a")
        check = self.check_of(store, clock)
        check.check()
        Ledger(store, "job-a").request_abort("canceled")
        check.check()
        clock.now += 2.0
        with pytest.raises(JobAborted):
            check.check()

    def test_an_outage_is_no_answer(self, store: FaultyStore, clock: Clock) -> None:
        """While the store is unavailable, every check raises; the worker continues once it is available again."""
        take(store, clock, "job-a")
        check = self.check_of(store, clock)
        store.away = True
        for _ in range(2):
            with pytest.raises(TransientError):
                check.check()
        store.away = False
        check.check()


class TestGrants:
    """How long a worker's write may take."""

    def check_of(self, store: FaultyStore, clock: Clock, grace_s: float) -> LeaseCheck:
        return LeaseCheck(store, "docs", "job-a", 1, grace_s=grace_s, max_age_s=2.0, clock=clock)

    def test_a_write_ends_before_a_successor_writes(self, store: FaultyStore, clock: Clock) -> None:
        """Whatever the age of the check, the grant ends a second before the end of a grace that began with it."""
        take(store, clock, "job-a")
        check = self.check_of(store, clock, GRACE_S)
        for age in (0.0, 0.5, 1.9):
            clock.now = 1000.0 + age
            assert clock.now + check.grant() == 1000.0 + GRACE_S - 1
        clock.now = 1002.0
        assert check.grant() == GRACE_S - 1

    def test_a_check_that_takes_long_leaves_less(
        self, store: FaultyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lease may have been lost at any time since the check began; too little time is no permission."""
        take(store, clock, "job-a")
        check = self.check_of(store, clock, GRACE_S)
        slow_s = 20.0
        get = store.get

        def slow_get(path: str) -> Stored | None:
            clock.now += slow_s if path.endswith("lease.json") else 0.0
            return get(path)

        monkeypatch.setattr(store, "get", slow_get)
        assert check.grant() == GRACE_S - 1 - slow_s
        slow_s = 31.0
        with pytest.raises(TransientError, match="took 31 s"):
            check.grant()

    def test_a_short_grace_leaves_time_to_write(self, store: FaultyStore, clock: Clock) -> None:
        """A grace of no length, as in tests, does not make every write a time-out."""
        take(store, clock, "job-a")
        check = self.check_of(store, clock, 0.0)
        assert check.grant() == 7.0
        clock.now += 1.9
        assert check.grant() == pytest.approx(5.1)

    def test_no_grant_without_the_lease(self, store: FaultyStore, clock: Clock) -> None:
        """It raises as a check does."""
        take(store, clock, "job-a")
        check = self.check_of(store, clock, GRACE_S)
        check.grant()
        take(store, clock, "job-b")
        with pytest.raises(LeaseLost):
            check.grant()


def test_a_waiting_driver_says_how_long_and_when_the_holder_is_alive(store: FaultyStore, clock: Clock) -> None:
    """First the wait for a dead holder; once its heartbeat moves, a wait without an end; each is said once."""
    held = take(store, clock, "job-a", 3)
    said: list[tuple[str, int, float | None]] = []
    clock.on_sleep = lambda: held.renew() if clock.now < 1000.0 + 2 * TTL_S else None
    acquire(
        store,
        "docs",
        "job-b",
        1,
        ttl_s=TTL_S,
        grace_s=GRACE_S,
        clock=clock,
        sleep=clock.sleep,
        on_wait=lambda holder, left_s: said.append((holder.job_id, holder.attempt, left_s)),
    )
    assert said == [("job-a", 3, TTL_S + GRACE_S), ("job-a", 3, None)]
