"""A request to a store is repeated while its vectors stay in memory, for a bounded time and while it is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ingestion_engine.adapters.patience import FAILING_S, LIMITED_S, PAUSES, Patience
from ingestion_engine.domain.errors import FatalError, LeaseLost, RequestTooLarge, TlsFailed, TransientError


@dataclass
class Time:
    """A clock that sleeping moves."""

    now: float = 100.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Failing:
    """A request that fails with these errors, then succeeds."""

    errors: list[Exception]
    calls: int = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "written"


async def go_on() -> None: ...


def unavailable(**context: float) -> TransientError:
    return TransientError("qdrant_unavailable", "no", **context)


def make_patience(time: Time, **changes: object) -> Patience:
    return Patience(**{"check": go_on, "clock": time, "sleep": time.sleep, **changes})  # type: ignore[arg-type]  # fields by name


async def test_a_store_that_comes_back_gets_the_same_request() -> None:
    """The pauses grow, none is longer than the time in which a store that comes back is noticed."""
    time, request = Time(), Failing([unavailable() for _ in range(8)])
    assert await make_patience(time).repeat(request) == "written"
    assert request.calls == 9
    assert 8 < time.now - 100 < 8 * PAUSES.longest_s


@pytest.mark.parametrize(("requested", "limit_s"), [({}, FAILING_S), ({"retry_after_s": 20.0}, LIMITED_S)])
async def test_waiting_ends(requested: dict[str, float], limit_s: float) -> None:
    """A store that stays unavailable is reported; one that asks for pauses is given more time."""
    time, request = Time(), Failing([unavailable(**requested) for _ in range(1000)])
    with pytest.raises(TransientError):
        await make_patience(time).repeat(request)
    assert limit_s - 20 <= time.now - 100 <= limit_s


async def test_the_requested_pause_is_kept() -> None:
    """Neither less, nor in one piece: an abort is noticed within seconds."""
    time = Time()
    await make_patience(time).repeat(Failing([unavailable(retry_after_s=17.0)]))
    assert time.now - 100 == pytest.approx(17.0)
    assert max(time.slept) <= 2.0


@pytest.mark.parametrize("requested", [{}, {"retry_after_s": 30.0}])
async def test_no_pause_outlasts_the_time_limit_of_the_job(requested: dict[str, float]) -> None:
    """A pause that would end after the limit is not begun."""
    time, request = Time(), Failing([unavailable(**requested) for _ in range(1000)])
    with pytest.raises(TransientError):
        await make_patience(time, ends_at=125.0).repeat(request)
    assert time.now <= 125.0


async def test_a_lost_lease_ends_a_pause_at_once() -> None:
    """Nothing is written afterwards."""

    async def lost() -> None:
        raise LeaseLost("lease_lost", "another attempt")

    time, request = Time(), Failing([unavailable(retry_after_s=60.0)])
    with pytest.raises(LeaseLost):
        await make_patience(time, check=lost).repeat(request)
    assert request.calls == 1
    assert time.now - 100 <= 2.0


async def test_an_unknown_lease_does_not_end_a_pause() -> None:
    """The next request that writes asks for its permit anyway."""

    async def unknown() -> None:
        raise TransientError("state_unavailable", "no")

    time = Time()
    assert await make_patience(time, check=unknown).repeat(Failing([unavailable()])) == "written"


@pytest.mark.parametrize("kind", [FatalError, RequestTooLarge, TlsFailed])
async def test_what_repeating_cannot_change_is_raised_at_once(kind: type[Exception]) -> None:
    """A request that must be smaller is not repeated as it is."""
    time, request = Time(), Failing([kind("some_code", "no")])  # type: ignore[arg-type,call-arg]  # both take two texts
    with pytest.raises(kind):
        await make_patience(time).repeat(request)
    assert time.slept == []
