"""What the gateway itself costs: processor time, latency, memory of waiting requests."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from flow_load import Flow, run_load, send_flows
from gateways import Gateway, run_gateways
from http_server import ask, run_server
from report import MIB, Report, Target, median_of

from gateway.simulation import MODEL, Simulation, spread

CPU_TARGET_MS = 50.0
LATENCY_TARGET_MS = 2.0
WAITING_KIB_TARGET = 32.0
"""Memory of one waiting request besides its body: a connection of an asyncio server."""
BOUND_FACTOR = 2.0
"""Memory for each byte of ``queue_bytes``: the body, and as much for what is being received and the allocator."""
SMALL_CHARS, LARGE_CHARS = 1000, 64_000
"""Characters of each of eight texts."""
MOST_LOOKS = 40
"""Looks at the queue, 0.3 s apart, until it stands still."""
NEVER_MS = 3_600_000.0


def measure_cpu(simulation: Simulation, texts: int, requests: int) -> dict[str, float]:
    """Return the gateway's processor time per 1,000 texts, and that of the plain pass-through, in ms."""
    flows = [Flow(f"job-{n}", texts=texts, chars=1000, in_flight=4, requests=requests // 4) for n in range(4)]
    answered = requests // 4 * 4 * texts / 1000
    simulation.reset(request_ms=0.0, text_ms=0.0)
    with run_gateways(simulation.urls) as (gateway,):
        run_load([gateway.url], [Flow("warm-up", requests=50)], 30, model=MODEL)
        before = gateway.cpu_s()
        load = run_load([gateway.url], flows, 120, model=MODEL)
        used = gateway.cpu_s() - before
    with run_server("pass_through.py", *simulation.urls) as plain:
        (url,) = plain["urls"]
        run_load([url], [Flow("warm-up", requests=50)], 30, model=MODEL)
        before = ask(f"{url}/cpu")["cpu_s"]
        run_load([url], flows, 120, model=MODEL)
        passed = ask(f"{url}/cpu")["cpu_s"] - before
    took = max(one.answered or 0.0 for one in load.asked) - load.started
    return {
        "cpu_ms": used * 1000 / answered,
        "pass_through_ms": passed * 1000 / answered,
        "texts_per_s": answered * 1000 / took,
    }


async def _alternate(urls: dict[str, str], blocks: int, requests: int) -> dict[str, list[float]]:
    """Return the times of single requests in ms, measured in turns, so that the machine's load is the same for all."""
    times: dict[str, list[float]] = {name: [] for name in urls}
    for block in range(blocks + 1):
        for name, url in urls.items():
            flow = Flow(f"{name}-{block}", texts=8, chars=1000, in_flight=1, requests=requests)
            load = await send_flows([url], [flow], 60, model=MODEL)
            if block:
                times[name] += [one.took_ms for one in load.of(flow.name)]
    return times


def measure_latency(simulation: Simulation, blocks: int, requests: int) -> dict[str, Any]:
    """Return the times of requests that find everything idle: at the server, and through the gateway."""
    simulation.reset(request_ms=0.0, text_ms=0.0)
    with run_gateways(simulation.urls) as (gateway,):
        times = uvloop.run(_alternate({"direct": simulation.urls[0], "gateway": gateway.url}, blocks, requests))
    return {name: spread(values) for name, values in times.items()}


async def _fill(gateway: Gateway, waiting: int, chars: int) -> int:
    """Return the memory while this many clients want to wait in the gateway; their servers never answer."""
    flows = [Flow(f"job-{number}", texts=8, chars=chars, in_flight=waiting // 10) for number in range(10)]
    sending = asyncio.create_task(send_flows([gateway.url], flows, 600, model=MODEL, drain=False))
    loop = asyncio.get_running_loop()
    try:
        held, steady = -1, 0
        for _ in range(MOST_LOOKS):
            await asyncio.sleep(0.3)
            now = await loop.run_in_executor(None, _count_held, gateway)
            held, steady = now, steady + 1 if now == held else 0
            if steady == 3:
                break
        return gateway.rss_bytes()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def _count_held(gateway: Gateway) -> int:
    return sum(flow["queued"] + flow["in_flight"] for flow in ask(f"{gateway.url}/gateway/flows")["flows"])


def measure_memory(simulation: Simulation, many: int) -> dict[str, float]:
    """Return the memory with few and with many waiting requests, and with large ones of which most are refused."""
    few, size, large = 100, 8 * SMALL_CHARS, 8 * LARGE_CHARS
    clients = max(200, many // 20)
    bound = clients * large // 8
    simulation.reset(request_ms=NEVER_MS)
    found = {}
    for name, waiting, chars, settings in (
        ("few", few, SMALL_CHARS, {}),
        ("many", many, SMALL_CHARS, {}),
        ("bounded", clients, LARGE_CHARS, {"queue_bytes": bound}),
    ):
        with run_gateways(simulation.urls, **settings) as (gateway,):
            empty = gateway.rss_bytes()
            found[name] = (uvloop.run(_fill(gateway, waiting, chars)) - empty) / MIB
    bodies = (many - few) * size / MIB
    return {
        **found,
        "bodies": bodies,
        "each_kib": (found["many"] - found["few"] - bodies) / (many - few) * 1024,
        "clients": clients,
        "wanted": clients * large / MIB,
        "bound": bound / MIB,
        "allowed": BOUND_FACTOR * bound / MIB + clients * WAITING_KIB_TARGET / 1024,
    }


def add(report: Report, simulation: Simulation, *, quick: bool, runs: int) -> None:
    """Measure processor time, latency and memory and add them to the report."""
    requests = 400 if quick else 2000
    rows = []
    for texts in (8, 16, 32):
        found = median_of([measure_cpu(simulation, texts, requests * 8 // texts) for _ in range(runs)])
        report.data[f"cost: batches of {texts}"] = found
        report.targets.append(
            Target(f"processor time per 1,000 texts, batches of {texts}", CPU_TARGET_MS, found["cpu_ms"], "ms")
        )
        rows.append((f"batches of {texts}", *(f"{found[key]:.1f}" for key in ("cpu_ms", "pass_through_ms")),
                     f"{found['texts_per_s']:,.0f}"))  # fmt: skip
    report.add_table(
        ("requests", "gateway CPU ms per 1,000 texts", "plain pass-through CPU ms", "texts/s with one client process"),
        rows,
        note="**Processor time** of the gateway's process, texts of 1,000 characters, 768 dimensions, servers that "
        "answer at once.",
    )
    latency = measure_latency(simulation, *((2, 100) if quick else (6, 300)))
    report.data["latency"] = latency
    added = latency["gateway"]["p50"] - latency["direct"]["p50"]
    report.targets.append(Target("added latency, p50", LATENCY_TARGET_MS, added, "ms"))
    report.add_table(
        ("single requests of 8 texts", "requests", "p50 ms", "p99 ms", "max ms"),
        [(name, *(each[key] for key in ("count", "p50", "p99", "max"))) for name, each in latency.items()],
        note=f"**Latency** of one request after another, in turns; p50 added {added:.2f} ms, p99 "
        f"{latency['gateway']['p99'] - latency['direct']['p99']:.2f} ms.",
    )
    many = 1000 if quick else 10_000
    memory = measure_memory(simulation, many)
    report.data["memory"] = {name: round(value, 2) for name, value in memory.items()}
    report.targets += [
        Target(f"memory of a waiting request besides its body, {many:,} waiting", WAITING_KIB_TARGET,
               memory["each_kib"], "KiB"),
        Target(f"memory with `queue_bytes` {memory['bound']:.0f} MiB while {memory['clients']:,} clients offer "
               f"{memory['wanted']:.0f} MiB", memory["allowed"], memory["bounded"], "MiB"),
    ]  # fmt: skip
    report.add_table(
        ("waiting clients", "bodies MiB", "memory above idle MiB"),
        [
            ("100", f"{100 * 8 * SMALL_CHARS / MIB:.1f}", f"{memory['few']:.1f}"),
            (f"{many:,}", f"{memory['bodies']:.1f}", f"{memory['many']:.1f}"),
            (f"{memory['clients']:,}, `queue_bytes` {memory['bound']:.0f} MiB", f"{memory['wanted']:.1f}",
             f"{memory['bounded']:.1f}"),
        ],
        note=f"**Memory** with servers that never answer. Allowed is {BOUND_FACTOR:g} times `queue_bytes` and "
        f"{WAITING_KIB_TARGET:g} KiB for each connection.",
    )  # fmt: skip
