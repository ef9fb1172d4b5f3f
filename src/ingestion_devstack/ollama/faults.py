"""Faults on demand and call counters, for drills. Both exist only with `--faults`; the real server has neither.

`POST /_faults {"status": 503, "body": {...}, "count": N, "every": k, "delay_s": s}` arms one fault: every k-th `POST
/api/embed` from now on waits `delay_s` and, if `status` is given, is answered with it, N times in all. `{}` disarms.
`GET /_stats` returns the counters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ingestion_devstack.ollama.requests import BadRequestError

_FIELDS = {"status", "body", "count", "every", "delay_s"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and how often."""

    status: int | None = None
    """HTTP status of the answer; None: only the delay, then the real answer."""
    body: Any = field(default_factory=lambda: {"error": "injected fault"})
    count: int | None = None
    """How many calls are hit; None: no end."""
    every: int = 1
    """1 hits each call, 3 every third one, counted from when the fault was armed."""
    delay_s: float = 0.0


@dataclass(slots=True)
class EmbedStats:
    """Counters since the start of the server, of `POST /api/embed` only."""

    embed_requests: int = 0
    """All calls, whatever their answer."""
    faulted_requests: int = 0
    """Calls that a fault hit."""
    texts_embedded: int = 0
    """Vectors computed, also for calls that failed or were dropped afterwards."""
    dropped_requests: int = 0
    """Calls whose client went away before the answer."""
    in_flight: int = 0
    """Calls being served now."""
    max_in_flight: int = 0
    loads: int = 0
    """How often a model was loaded, reloads for other options included."""
    busy_seconds: float = 0.0
    """Time during which some inference ran."""

    def as_json(self) -> dict[str, float]:
        """Return the counters by name."""
        return asdict(self)


class FaultPlan:
    """The armed fault and how often it has hit. Used from the event loop only."""

    def __init__(self) -> None:
        """Nothing is armed."""
        self._fault: Fault | None = None
        self._calls = 0
        self._hits = 0

    def arm(self, request: object) -> Fault | None:
        """Replace the armed fault; an empty object disarms. Returns the new one.

        Raises:
            BadRequestError: unknown field or impossible value.
        """
        if not isinstance(request, dict) or not request.keys() <= _FIELDS:
            raise BadRequestError(f"a fault is an object with the fields {sorted(_FIELDS)}")
        fault = Fault(**request) if request else None
        if fault is not None:
            _check(fault)
        self._fault, self._calls, self._hits = fault, 0, 0
        return fault

    def next_call(self) -> Fault | None:
        """Count one embed call; return the fault if this call is hit."""
        fault = self._fault
        if fault is None or (fault.count is not None and self._hits >= fault.count):
            return None
        self._calls += 1
        if self._calls % fault.every:
            return None
        self._hits += 1
        return fault


def _check(fault: Fault) -> None:
    numbers_fit = (
        (fault.status is None or (type(fault.status) is int and 200 <= fault.status <= 599))
        and (fault.count is None or (type(fault.count) is int and fault.count >= 0))
        and (type(fault.every) is int and fault.every >= 1)
        and (isinstance(fault.delay_s, int | float) and not isinstance(fault.delay_s, bool) and fault.delay_s >= 0)
    )
    if not numbers_fit:
        raise BadRequestError("status is 200..599 or null, count >= 0 or null, every >= 1, delay_s >= 0")
