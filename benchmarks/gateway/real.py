"""A real Ollama, directly and behind the gateway: which number of requests in flight and which batch saturate it."""

from __future__ import annotations

from typing import Any

from flow_load import Flow, Load, run_load
from gateways import run_gateways
from http_server import ask
from report import Report, Target

from gateway.simulation import spread

BATCHES = (1, 8, 16, 32)
IN_FLIGHT = (1, 2, 4)
CHARS = 700
"""The default size of a chunk."""
LEAST_ANSWERS = 3
RATE_TARGET = 0.97
"""Rate through the gateway beside the best that was found without it, at the same batch size."""


def _describe(load: Load) -> dict[str, Any]:
    """Return rate and times; the rate is that between the first answer and the last."""
    answered = sorted(
        ((one.answered, one) for one in load.asked if one.right and one.answered is not None), key=lambda each: each[0]
    )
    if len(answered) < LEAST_ANSWERS:
        raise RuntimeError(f"only {len(answered)} requests were answered in {load.ended - load.started:.0f} s")
    texts = sum(one.texts for _, one in answered[1:])
    return {
        "texts_per_s": round(texts / (answered[-1][0] - answered[0][0]), 2),
        "ms": spread([one.took_ms for _, one in answered]),
    }


def measure_direct(url: str, model: str, *, texts: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """Return texts per second and times of one client with this many requests in flight."""
    flow = Flow("direct", texts=texts, chars=CHARS, in_flight=in_flight, headers=False)
    return _describe(run_load([url], [flow], seconds, model=model, drain=False))


def measure_gateway(url: str, model: str, *, texts: int, seconds: float) -> dict[str, Any]:
    """Return the same for two flows with eight requests in flight each, and the limit that the gateway found."""
    flows = [Flow(f"job-{number}", texts=texts, chars=CHARS) for number in range(2)]
    with run_gateways([url]) as (gateway,):
        load = run_load([gateway.url], flows, seconds, model=model, drain=False)
        (server,) = ask(f"{gateway.url}/gateway/servers")["servers"]
    return {**_describe(load), "limit": server["limit"]}


def add(report: Report, *, url: str, model: str, quick: bool) -> None:
    """Measure the server and add the figures to the report."""
    seconds = 12.0 if quick else 16.0
    run_load([url], [Flow("warm-up", in_flight=1, requests=1, headers=False)], seconds, model=model)
    rows, best = [], {}
    for texts in (8,) if quick else BATCHES:
        for in_flight in IN_FLIGHT:
            found = measure_direct(url, model, texts=texts, in_flight=in_flight, seconds=seconds)
            report.data[f"real: batch {texts}, {in_flight} in flight"] = found
            best[texts] = max(best.get(texts, 0.0), found["texts_per_s"])
            rows.append((f"direct, batches of {texts}", in_flight, f"{found['texts_per_s']:.1f}",
                         f"{found['ms']['p50']:.0f}", f"{found['ms']['p99']:.0f}"))  # fmt: skip
        found = measure_gateway(url, model, texts=texts, seconds=seconds)
        report.data[f"real: batch {texts}, gateway"] = found
        report.targets.append(
            Target(f"real Ollama, batches of {texts}: rate beside the best without a gateway", RATE_TARGET,
                   found["texts_per_s"] / best[texts], "", at_least=True)
        )  # fmt: skip
        rows.append((f"gateway, batches of {texts}", f"limit {found['limit']:g}", f"{found['texts_per_s']:.1f}",
                     f"{found['ms']['p50']:.0f}", f"{found['ms']['p99']:.0f}"))  # fmt: skip
    report.add_table(
        (f"real Ollama, {model}", "in flight", "texts/s", "p50 ms", "p99 ms"),
        rows,
        note=f"**A real Ollama** on this machine, texts of {CHARS} characters. Through the gateway two flows have "
        "eight requests in flight each, so times include the queue.",
    )
