"""Compare rules for the number of requests in flight, in simulated time: how busy machines are, how long queues are.

    python benchmarks/bench_adaptive_limit.py [--runs 25] [--quick]

No server runs: ``sim_limits.py`` simulates machines behind a URL. Every rule sees the same situations with the same
random numbers. The rules beside the product's are written here after their published descriptions, reduced to what
matters: TCP Vegas and Netflix's "gradient 2" of concurrency-limits, with durations per character.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from report import Report, parse_options, repeat_command
from sim_limits import Limit, Setting, Simulation, mean_limit

from ingestion_engine.runtime.adaptive_limit import LARGEST_LIMIT, AdaptiveLimit, Outcome

Clock = Callable[[], float]


@dataclass(slots=True)
class Sent:
    """A request under way."""

    chars: int
    began: float


class Rule:
    """What the other rules share: two to begin with, half after an error, nothing learned while few are in flight."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.in_flight = 0
        self.value = 2.0
        self.cut_at = float("-inf")

    @property
    def limit(self) -> int:
        return max(1, min(round(self.value), LARGEST_LIMIT))

    @property
    def room(self) -> int:
        return self.limit - self.in_flight

    def begin(self, chars: int) -> Sent:
        self.in_flight += 1
        return Sent(chars, self.clock())

    def end(self, sent: Sent, outcome: Outcome, *, load_s: float = 0.0) -> None:
        is_full = 2 * self.in_flight >= self.limit
        self.in_flight -= 1
        if outcome is Outcome.FAILED and sent.began > self.cut_at:
            self.cut_at, self.value = self.clock(), max(self.value / 2, 1.0)
        elif outcome is Outcome.DONE and is_full:
            self.learn(sent.chars, self.clock() - sent.began)
            self.value = min(max(self.value, 1.0), float(LARGEST_LIMIT))

    def learn(self, chars: int, seconds: float) -> None:
        """Change ``value`` after an answer."""


class TwoPerUrl(Rule):
    """What the product did before: two per URL, whatever happens."""

    def learn(self, chars: int, seconds: float) -> None:
        self.value = 2.0


class Vegas(Rule):
    """Keeps three to six requests in the queue, by the shortest duration seen in the last 30 limits of requests."""

    shortest, seen = math.inf, 0

    def learn(self, chars: int, seconds: float) -> None:
        per_char = seconds / chars
        self.seen += 1
        if self.seen > 30 * self.value:
            self.shortest, self.seen = per_char, 0
        self.shortest = min(self.shortest, per_char)
        queue = math.ceil(self.value * (1 - self.shortest / per_char))
        step = max(1.0, math.log10(self.value))
        if queue <= step:
            self.value += 6 * step
        elif queue < 3 * step:
            self.value += step
        elif queue > 6 * step:
            self.value -= step


class Gradient(Rule):
    """Follows the ratio of the long-term mean duration to the present one, and adds four for a queue."""

    mean = 0.0

    def learn(self, chars: int, seconds: float) -> None:
        per_char = seconds / chars
        self.mean = self.mean + (per_char - self.mean) / 100 if self.mean else per_char
        if self.mean / per_char > 2:
            self.mean *= 0.95
        gradient = max(0.5, min(1.0, 1.5 * self.mean / per_char))
        self.value += 0.2 * (self.value * gradient + 4 - self.value)


class HillClimb(Rule):
    """One more while characters per second grow by 3 % a step, else one less, and again after ten rounds."""

    count = chars = rounds = 0
    began, before = 0.0, 0.0

    def learn(self, chars: int, seconds: float) -> None:
        now = self.clock()
        if self.began == 0.0:
            self.began = now
            return
        self.count, self.chars = self.count + 1, self.chars + chars
        if self.count < 4 * self.limit or now <= self.began:
            return
        rate = self.chars / (now - self.began)
        self.began, self.count, self.chars = now, 0, 0
        self.rounds -= 1
        if self.rounds > 0:
            return
        if rate > 1.03 * self.before:
            self.before, self.value = rate, self.value + 1
        else:
            self.before, self.value, self.rounds = 0.97 * rate, self.value - 1, 10


RULES: Mapping[str, Callable[[Clock], Limit]] = {
    "two per URL": TwoPerUrl,
    "hill climbing": HillClimb,
    "Vegas": Vegas,
    "gradient 2": Gradient,
    "Little's law": lambda clock: AdaptiveLimit(clock=clock),
}


def list_situations() -> dict[str, tuple[Setting, tuple[float, float]]]:
    """Return settings by name, each with the time that is measured."""
    found: dict[str, tuple[Setting, tuple[float, float]]] = {}
    for slots, front in itertools.product((1, 2, 4, 8), ("least", "robin")):
        name = {"least": "fewest connections", "robin": "round robin"}[front]
        found[f"{slots} slots, {name}"] = Setting(slots=slots, front=front, noise=0.1, texts=(6, 8)), (10.0, 40.0)
    found["4 slots, at random"] = Setting(front="random", noise=0.1, texts=(6, 8)), (10.0, 40.0)
    found["4 slots, 1 to 32 texts, durations off by 30 %"] = Setting(noise=0.3, texts=(1, 32), seconds=70), (10.0, 70.0)
    found["4 slots, requests of 8 ms"] = (
        Setting(request_s=0.005, char_s=0.003 / 700, texts=(1, 1), seconds=20),
        (10.0, 20.0),
    )
    found["4 slots, the first 10 s"] = Setting(noise=0.1, texts=(6, 8), seconds=10), (0.0, 10.0)
    found["4 slots, then 8"] = Setting(noise=0.1, texts=(6, 8), slots_later={30.0: 8}, seconds=70), (40.0, 70.0)
    found["8 slots, then 2"] = (
        Setting(slots=8, noise=0.1, texts=(6, 8), slots_later={30.0: 2}, seconds=70),
        (40.0, 70.0),
    )
    found["4 slots, then three times slower"] = (
        Setting(noise=0.1, texts=(6, 8), speed_later={30.0: 3.0}, seconds=130), (40.0, 130.0),
    )  # fmt: skip
    found["4 slots, after 10 s of errors"] = (
        Setting(noise=0.1, texts=(6, 8), outage=(20.0, 30.0), seconds=60),
        (35.0, 60.0),
    )
    found["1 slot, low load"] = Setting(slots=1, noise=0.1, texts=(6, 8), load=4.0, seconds=130), (10.0, 130.0)
    return found


def measure(
    setting: Setting, span: tuple[float, float], make: Callable[[Clock], Limit], seeds: int
) -> dict[str, float]:
    """Return the means over ``seeds`` runs, and the worst busy share."""
    runs = [Simulation(setting, make, seed).run() for seed in range(seeds)]
    busy = [run.busy_after(*span) for run in runs]
    waits = [wait for run in runs for end, wait in run.waits if span[0] <= end <= span[1]]
    return {
        "busy": statistics.mean(busy),
        "busy_worst": min(busy),
        "limit": statistics.mean(mean_limit(run, *span) for run in runs),
        "queue_ms": 1000 * statistics.mean(waits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(runs=25)
    options = parse_options(parser, {})
    report = Report(
        "adaptive_limit",
        "Rules for the number of requests in flight",
        repeat_command(__file__),
        "Simulated time; machines behind one URL, each of which processes one request at a time. Each cell: share of "
        "the time in which the machines are busy, mean limit, and mean time of a request in a queue at the server.",
        ["ingestion-engine"],
        {"runs of each rule in each situation": options.runs},
        quick=options.quick,
    )
    rows, results = [], {}
    for name, (setting, span) in list_situations().items():
        found: dict[str, Any] = {rule: measure(setting, span, make, options.runs) for rule, make in RULES.items()}
        rows.append([name, *(f"{r['busy']:.3f}, {r['limit']:.1f}, {r['queue_ms']:,.0f} ms" for r in found.values())])
        results[name] = found
        print(rows[-1], file=sys.stderr, flush=True)
    report.data = {"results": results}
    report.add_table(["situation: busy, limit, queue", *RULES], rows)
    report.write()


if __name__ == "__main__":
    main()
