"""The simulated servers behind the gateway of a benchmark, and what every part uses of them."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from embed_log import Outcome, Record
from http_server import ask, run_server

MODEL = "sim-768"
REQUEST_MS = 10.0
TEXT_MS = 15.0
"""Cost of a text: 65 texts per second, as the other benchmarks have it."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """Simulated servers: their URLs, and the URL that controls them."""

    urls: list[str]
    control: str

    def reset(self, *, request_ms: float = REQUEST_MS, text_ms: float = TEXT_MS) -> None:
        """Forget the record, repair all servers and set the costs."""
        ask(f"{self.control}/sim/faults", {"armed": False})
        for number in range(len(self.urls)):
            self.set_speed(number, 1.0)
        ask(f"{self.control}/sim/reset", {"request_ms": request_ms, "text_ms": text_ms})

    def set_speed(self, server: int, speed: float) -> None:
        """Set the speed of a server; 0.5 takes twice as long."""
        ask(f"{self.control}/sim/speed", {"endpoint": server, "speed": speed})

    def records(self) -> list[Record]:
        """Return the requests that have ended since the last reset."""
        found = ask(f"{self.control}/sim/log")
        return [Record(**{**one, "outcome": Outcome(one["outcome"])}) for one in found]


@contextlib.contextmanager
def run_simulation(servers: int, *, slots: int = 1) -> Iterator[Simulation]:
    """Run simulated servers, each with this many slots, in a process of their own while the context lasts."""
    with run_server("sim_ollama.py", "--endpoints", str(servers), "--slots", str(slots)) as fields:
        yield Simulation(fields["urls"], fields["control"])


def service_ms(texts: int) -> float:
    """Return how long a server works on a request."""
    return REQUEST_MS + texts * TEXT_MS


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, interpolated between two values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return number, median, 99th percentile and maximum of some values."""
    return {
        "count": len(values),
        "p50": round(statistics.median(values), 3),
        "p99": round(percentile(values, 99), 3),
        "max": round(max(values), 3),
    }
