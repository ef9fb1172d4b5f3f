"""Servers behind the gateway: how busy it keeps them, and what a slow or broken one costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import uvloop
from embed_log import Outcome, busy_share
from flow_load import Flow, Load, run_load, send_flows
from flow_shares import rate
from gateways import run_gateways
from http_client import Connection
from http_server import ask
from report import Report, Target

from gateway.simulation import MODEL, Simulation, run_simulation, service_ms

FLOWS = 4
ONE_URL_TARGET = 0.95
EIGHT_URLS_TARGET = 0.99
SLOTS = 4
SLOW_SPEED = 1 / 8
OTHERS_TARGET = 0.97
"""Rate of the other servers beside their rate before: 'unchanged' within what parts of an undisturbed run differ."""
TIMEOUT_S = 3
"""``Ingest-Timeout`` of the flows: after it a server that hangs is given up."""
BROKEN = 1
"""Number of the server that breaks."""
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "hangs": {"kind": "hang"},
    "dies": {"kind": "refuse"},
    "drops connections": {"kind": "drop"},
    "answers 500": {"kind": "error", "status": 500},
    "answers 503": {"kind": "error", "status": 503},
    "answers 400 EOF": {"kind": "error", "status": 400},
    "has another digest": {"kind": "digest"},
}


@dataclass(frozen=True, slots=True)
class Drill:
    """Moments of a run with a fault at one server, in seconds after its start."""

    breaks_s: float
    repaired_s: float
    seconds: float


def measure_busy(simulation: Simulation, *, slots: int, texts: int, times: tuple[float, float]) -> dict[str, Any]:
    """Return how busy the slots are between two moments after the start, and the limits that the gateway found."""
    simulation.reset()
    after_s, seconds = times
    flows = [Flow(f"job-{number}", texts=texts, chars=1000) for number in range(FLOWS)]
    with run_gateways(simulation.urls) as (gateway,):
        load = run_load([gateway.url], flows, seconds, model=MODEL)
        servers = ask(f"{gateway.url}/gateway/servers")["servers"]
    records = simulation.records()
    start, end = load.started + after_s, load.ended
    return {
        "busy": round(busy_share(records, slots * len(simulation.urls), start, end), 4),
        "texts_per_s": round(rate(records, (start, end)), 1),
        "limits": sorted(server["limit"] for server in servers),
        "lost": load.lost,
    }


def measure_slow(simulation: Simulation, seconds: float) -> dict[str, float]:
    """Return the rate of three servers beside a slow one, and of all four, relative to what they can do."""
    flows = [Flow(f"job-{number}") for number in range(FLOWS)]
    simulation.reset()
    simulation.set_speed(0, SLOW_SPEED)
    with run_gateways(simulation.urls) as (gateway,):
        load = run_load([gateway.url], flows, seconds, model=MODEL)
    records, one = simulation.records(), 8000 / service_ms(8)
    span = (load.started + seconds / 4, load.ended)
    return {
        "fast": round(rate([each for each in records if each.endpoint != 0], span) / (3 * one), 4),
        "all": round(rate(records, span) / ((3 + SLOW_SPEED) * one), 4),
        "lost": load.lost,
    }


async def _run_drill(simulation: Simulation, gateway: str, fault: Mapping[str, Any], drill: Drill) -> Load:
    flows = [Flow(f"job-{number}", timeout_s=TIMEOUT_S) for number in range(FLOWS)]
    control = Connection(simulation.control)

    async def set_fault(at: float, values: Mapping[str, Any]) -> None:
        await asyncio.sleep(at)
        await control.request("POST", "/sim/faults", b"", json.dumps({"endpoint": BROKEN, **values}).encode())

    async with asyncio.TaskGroup() as group:
        group.create_task(set_fault(drill.breaks_s, fault))
        group.create_task(set_fault(drill.repaired_s, {"armed": False}))
        load = group.create_task(send_flows([gateway], flows, drill.seconds, model=MODEL))
    control.close()
    return load.result()


def measure_fault(simulation: Simulation, fault: Mapping[str, Any], drill: Drill) -> dict[str, Any]:
    """Return the rate of the other servers while one is broken beside that before, and what became of the requests."""
    simulation.reset()
    with run_gateways(simulation.urls) as (gateway,):
        load = uvloop.run(_run_drill(simulation, gateway.url, fault, drill))
    records = simulation.records()
    others = [one for one in records if one.endpoint != BROKEN]
    breaks, repaired = load.started + drill.breaks_s, load.started + drill.repaired_s
    before = rate(others, (load.started + drill.breaks_s / 2, breaks))
    back = min(
        (
            one.start
            for one in records
            if one.endpoint == BROKEN and one.outcome is Outcome.ANSWERED and (one.start or 0.0) > repaired
        ),
        default=None,
    )
    return {
        "others": round(rate(others, (breaks, repaired)) / before, 4),
        "lost": load.lost,
        "wrong": sum(one.answered is not None and not one.right for one in load.asked),
        "refused_tries": sum(len(one.refusals) for one in load.asked),
        "refusals": sorted({text for one in load.asked for text in one.refusals})[:5],
        "longest_ms": round(max(one.took_ms for one in load.asked if one.answered is not None)),
        "back_after_s": None if back is None else round(back - repaired, 2),
    }


def add_busy(report: Report, *, quick: bool) -> None:
    """Measure one URL with four slots, and eight URLs, and add them to the report."""
    times = (6.0, 9.0) if quick else (10.0, 22.0)
    rows = []
    for name, urls, slots, texts in (
        (f"one URL, {SLOTS} slots, batches of 8", 1, SLOTS, 8),
        (f"one URL, {SLOTS} slots, batches of 32", 1, SLOTS, 32),
        ("one URL, 1 slot, batches of 8", 1, 1, 8),
        ("eight URLs, batches of 8", 8, 1, 8),
    ):
        with run_simulation(urls, slots=slots) as simulation:
            found = measure_busy(simulation, slots=slots, texts=texts, times=times)
        report.data[f"busy: {name}"] = found
        target = EIGHT_URLS_TARGET if urls == 8 else ONE_URL_TARGET
        report.targets.append(
            Target(f"{name}: busy share after {times[0]:g} s", target, found["busy"], "", at_least=True)
        )
        limits = ", ".join(f"{limit:g}" for limit in found["limits"])
        rows.append((name, f"{found['busy']:.4f}", f"{found['texts_per_s']:.1f}", limits))
    report.add_table(
        ("servers", "busy share", "texts/s", "limits at the end"),
        rows,
        note=f"**Busy servers.** {FLOWS} flows with eight requests in flight each, measured from {times[0]:g} to "
        f"{times[1]:g} s after the start.",
    )


def add_slow(report: Report, *, quick: bool) -> None:
    """Measure a slow server among fast ones and add it to the report."""
    with run_simulation(4) as simulation:
        found = measure_slow(simulation, 8.0 if quick else 20.0)
    report.data["slow server"] = found
    report.targets += [
        Target(f"one server of four at 1/{1 / SLOW_SPEED:.0f} of the speed: rate of {which} beside their capacity",
               OTHERS_TARGET, found[key], "", at_least=True)
        for which, key in (("the others", "fast"), ("all", "all"))
    ]  # fmt: skip


def add_faults(report: Report, *, quick: bool) -> None:
    """Measure each fault of one server of four and add it to the report."""
    drill = Drill(3.0, 6.0, 8.0) if quick else Drill(6.0, 11.0, 13.0)
    rows = []
    for name, fault in FAULTS.items():
        if quick and name not in ("dies", "has another digest"):
            continue
        with run_simulation(4) as simulation:
            found = measure_fault(simulation, fault, drill)
        report.data[f"fault: {name}"] = found
        report.targets += [
            Target(f"one server of four {name}: rate of the others beside that before", OTHERS_TARGET,
                   found["others"], "", at_least=True),
            Target(f"one server of four {name}: requests without a right answer", 0, found["lost"], "requests"),
        ]  # fmt: skip
        back = found["back_after_s"]
        rows.append((name, f"{found['others']:.3f}", found["lost"], found["wrong"], found["refused_tries"],
                     f"{found['longest_ms']:,}", "not yet" if back is None else f"{back:.1f}"))  # fmt: skip
    heads = ("one server of four", "others' rate", "lost", "wrong", "tries refused by the gateway",
             "longest request ms", "used again after s")  # fmt: skip
    report.add_table(
        heads,
        rows,
        note=f"**One server of four breaks** after {drill.breaks_s:g} s and is repaired after {drill.repaired_s:g} s. "
        f"Every answer is compared with the vectors of its texts. A server that hangs is given up after the caller's "
        f"limit, {TIMEOUT_S} s.",
    )
