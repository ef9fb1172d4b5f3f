"""Eight flows against the caps: in flight, texts per second, idle capacity, shares, a late flow, and one alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from embed_log import Interval, Record, peak_in_flight, peak_texts
from flow_load import Flow, run_load
from flow_shares import idle_capacity, longest_lag, rate, worst_shares
from gateways import run_gateways
from report import Report, Target
from slots import TIMER_S

from gateway.simulation import MODEL, Simulation

WEIGHTS = (5, 5, 5, 5, 5, 10, 3)
"""Weights of the flows that are there from the start; the late one has ``LATE_WEIGHT``."""
LATE_WEIGHT = 5
SETTLE_S = 2.0
"""Time after a flow joined or left in which shares are not compared: the aim for the late flow."""
IDLE_TARGET = 0.01
SHARE_TARGET = 0.10
LAG_TARGET_S = 2.0


@dataclass(frozen=True, slots=True)
class Case:
    """Caps, and the requests and servers that make one of them the limit."""

    name: str
    in_flight: int
    texts_per_s: int
    texts: int
    """Texts of each request: few enough that one request is a small part of a share over the window."""
    request_ms: float
    text_ms: float
    allowed_texts_per_s: float
    """Texts per second that the caps allow."""


CASES = (
    Case("4 in flight, 50 texts/s (the rate limits)", 4, 50, 2, 10.0, 15.0, 50.0),
    Case("4 in flight, 1,000 texts/s (places limit)", 4, 1000, 4, 10.0, 66.0, 4 * 4 / 0.274),
)


def measure(simulation: Simulation, case: Case, phase_s: float, window_s: float) -> dict[str, Any]:
    """Run seven flows, then an eighth beside them, then that one alone, for ``phase_s`` each."""
    flows = [
        Flow(f"job-{number}", weight=weight, texts=case.texts, leaves_s=2 * phase_s)
        for number, weight in enumerate(WEIGHTS)
    ]
    late = Flow("job-late", weight=LATE_WEIGHT, texts=case.texts, joins_s=phase_s)
    simulation.reset(request_ms=case.request_ms, text_ms=case.text_ms)
    with run_gateways(simulation.urls, in_flight=case.in_flight, texts_per_second=case.texts_per_s) as (gateway,):
        load = run_load([gateway.url], [*flows, late], 3 * phase_s, model=MODEL)
    records, start = simulation.records(), load.started
    weights = {flow.name: float(flow.weight) for flow in flows}
    everyone = {**weights, late.name: float(late.weight)}
    middle, last = start + phase_s, start + 2 * phase_s
    # the seven leave with requests in the queue, and the late flow gets its share of that time only
    drained = max((one.end for one in records if one.flow in weights), default=last)
    seven, eight = (start + SETTLE_S, middle), (middle + SETTLE_S, last)
    found = {
        "in_flight": float(count_in_flight(records)),
        "texts_in_a_second": float(peak_texts(records)),
        "idle": max(_idle(records, case, span) for span in (seven, eight)),
        "idle_alone": _idle(records, case, (drained, load.ended)),
        "share_off": max(
            max(worst_shares(records, each, span, window_s=min(window_s, span[1] - span[0])).values())
            for each, span in ((weights, seven), (everyone, eight))
        ),
        "late_lag_s": longest_lag(records, late.name, (middle, last), share=late.weight / sum(everyone.values())),
        "rate": rate(records, eight),
        "alone_rate": rate(records, (drained, load.ended)),
        "allowed": case.allowed_texts_per_s,
        "lost": float(load.lost),
        "requests": float(len(load.asked)),
        "tries": sum(one.tries for one in load.asked) / len(load.asked),
    }
    return {name: round(value, 4) for name, value in found.items()}


def count_in_flight(records: Iterable[Record]) -> int:
    """Return the largest number of requests at the servers at one instant.

    The schedule's end of a request may be up to ``TIMER_S`` after its answer was sent.
    """
    return peak_in_flight(replace(one, end=max(one.arrival, one.end - TIMER_S)) for one in records)


def _idle(records: list[Record], case: Case, span: Interval) -> float:
    return idle_capacity(records, span, in_flight=case.in_flight, texts_per_s=case.texts_per_s, texts=case.texts)


def add(report: Report, simulation: Simulation, *, quick: bool) -> None:
    """Measure all cases and add them to the report."""
    phase_s, window_s = (5.0, 3.0) if quick else (13.0, 10.0)
    rows = []
    for case in CASES:
        found = measure(simulation, case, phase_s, window_s)
        report.data[f"caps: {case.name}"] = found
        for target in (
            Target("in flight at any instant, at the servers", case.in_flight, found["in_flight"], "requests"),
            Target("texts in any one-second window", case.texts_per_s, found["texts_in_a_second"], "texts"),
            Target("idle capacity while work waits", IDLE_TARGET, found["idle"], ""),
            Target(f"shares over any {window_s:g} s, off their weights", SHARE_TARGET, found["share_off"], ""),
            Target("a late job is behind its share", LAG_TARGET_S, found["late_lag_s"], "s"),
            Target("idle capacity while one job is alone", IDLE_TARGET, found["idle_alone"], ""),
            Target("requests without a right answer", 0, found["lost"], "requests"),
        ):
            report.targets.append(replace(target, name=f"{case.name}: {target.name}"))
        cells = (found["in_flight"], found["texts_in_a_second"], found["idle"], found["share_off"], found["late_lag_s"],
                 found["rate"], found["alone_rate"], found["allowed"])  # fmt: skip
        rows.append((case.name, *(f"{cell:.3f}" if cell < 2 else f"{cell:.1f}" for cell in cells)))
    heads = ("caps", "in flight", "texts in 1 s", "idle", "shares off", "late job behind s", "texts/s of eight",
             "texts/s of one alone", "allowed texts/s")  # fmt: skip
    weights = ", ".join(map(str, (*WEIGHTS, LATE_WEIGHT)))
    report.add_table(heads, rows, note=f"**Caps and shares.** Eight flows with the weights {weights}, eight requests "
                     f"in flight each; the last one joins after {phase_s:g} s, the others leave after "
                     f"{2 * phase_s:g} s.")  # fmt: skip
