"""Metrics of the gateway for Prometheus, made from its state when they are read: nothing in them is stale."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ingestion_engine import __version__
from ingestion_engine.domain.records import Band
from ingestion_engine.gateway.app import App
from ingestion_engine.gateway.dispatcher import Call, Dispatcher
from ingestion_engine.gateway.status import Status

# Otherwise each counter has a second series, which no Prometheus reads from the text format.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not annotate it

PREFIX: Final = "ingest_gateway_"
MOST_FLOWS: Final = 20
"""Flows with series of their own, the ones with the largest shares: their keys come from clients."""
MOST_NEW_FLOWS: Final = 200
"""Flows that are named in an hour, beyond which the largest others are shown as ``other``: each name is a series that
Prometheus keeps for weeks, and a client may invent a name for every request. As many jobs an hour have their own."""
FLOWS_KEPT_S: Final = 3_600.0
OTHER: Final = "other"
STATES: Final = ("up", "cooling", "half_open", "unknown")
_WAITS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The gateway's metrics."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self, dispatcher: Dispatcher, status: Status, app: App, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the state of these."""
        self._registry = CollectorRegistry()
        self._registry.register(_State(dispatcher, status, app, clock=clock))

    def render(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def add_waits(self, waits: Waits) -> None:
        """Show waiting times as well."""
        self._registry.register(waits.histogram)


class Waits:
    """Time that requests wait in the queue."""

    def __init__(self) -> None:
        """Start with no request."""
        self.histogram = Histogram(
            "ingest_gateway_wait_seconds",
            "Time that a request waited for its first server.",
            ["band"],
            buckets=_WAITS,
            registry=None,
        )
        self._by_band = {band: self.histogram.labels(band) for band in Band}

    def note(self, call: Call) -> None:
        """Record a request that has got its first server."""
        self._by_band[call.band].observe(call.queued_s)


class _State(Collector):
    """Reads everything that is a number already."""

    def __init__(self, dispatcher: Dispatcher, status: Status, app: App, *, clock: Callable[[], float]) -> None:
        self._dispatcher = dispatcher
        self._status = status
        self._app = app
        self._clock = clock
        self._named: dict[str, float] = {}
        """Flows that were shown by name, and when last."""

    def _name_flow(self, key: str, now: float) -> str:
        """Return the name under which a flow is shown."""
        if key not in self._named and len(self._named) >= MOST_NEW_FLOWS:
            self._named = {name: at for name, at in self._named.items() if now - at < FLOWS_KEPT_S}
            if len(self._named) >= MOST_NEW_FLOWS:
                return OTHER
        self._named[key] = now
        return key

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield _gauge("info", "The running version.", {(__version__,): 1}, labels=["version"])
        yield from self._queue()
        yield from self._servers()
        yield from self._gateways()
        yield from self._totals()

    def _queue(self) -> Iterator[Metric]:
        queue, now = self._dispatcher.queue, self._clock()
        flows = queue.flows(now)
        queued, oldest = dict.fromkeys(Band, 0), dict.fromkeys(Band, 0.0)
        for flow in flows:
            queued[flow.band] += flow.queued
            oldest[flow.band] = max(oldest[flow.band], flow.waited_s)
        yield _gauge("queued", "Requests that wait.", _one(queued), labels=["band"])
        yield _gauge("oldest_wait_seconds", "Age of the oldest request that waits.", _one(oldest), labels=["band"])
        yield _gauge("queued_bytes", "Size of the requests that wait.", {(): queue.waiting_bytes})
        yield _gauge("in_flight", "Requests at servers.", {(): queue.in_flight})
        yield _gauge("texts_in_window", "Texts sent to servers in the last second.", {(): queue.texts_in_window(now)})
        yield _gauge("flows", "Flows with requests in the last ten seconds.", {(): len(flows)})
        largest = sorted(flows, key=lambda flow: (flow.share, flow.queued_chars), reverse=True)[:MOST_FLOWS]
        shares: dict[tuple[str, Band], float] = {}
        waiting: dict[tuple[str, Band], float] = {}
        for flow in largest:
            key = self._name_flow(flow.flow, now), flow.band
            shares[key] = shares.get(key, 0.0) + flow.share
            waiting[key] = waiting.get(key, 0) + flow.queued
        for name, text, values in (
            ("flow_share", "Part of the characters of the last ten seconds", shares),
            ("flow_queued", "Requests that wait", waiting),
        ):
            text_of = f"{text}, of the {MOST_FLOWS} flows with the largest shares."
            yield _gauge(name, text_of, values, labels=["flow", "band"])

    def _servers(self) -> Iterator[Metric]:
        servers = self._status.servers()
        states = {(one["url"], state): one["state"] == state for one in servers for state in STATES}
        yield _gauge("server_state", "1 for the state that a server is in.", states, labels=["server", "state"])
        for name, text in (
            ("in_flight", "Requests in flight at a server."),
            ("limit", "Most requests in flight that a server gets, as learned."),
            ("owned", "1 when this gateway uses the server, 0 when another one does."),
        ):
            yield _gauge(f"server_{name}", text, {(one["url"],): one[name] for one in servers}, labels=["server"])
        yield _gauge(
            "server_differs",
            "1 when a server does not serve the digest of a model that the others serve.",
            {(one["url"], model): 1 for one in servers for model in one["differs"]},
            labels=["server", "model"],
        )
        yield _counter(
            "server_requests",
            "Requests that a server has answered or failed.",
            {(one["url"], outcome): one[outcome] for one in servers for outcome in ("done", "failed")},
            labels=["server", "outcome"],
        )
        for name, text in (("texts", "Texts that a server has embedded."), ("chars", "Characters of these texts.")):
            yield _counter(f"server_{name}", text, {(one["url"],): one[name] for one in servers}, labels=["server"])

    def _gateways(self) -> Iterator[Metric]:
        membership = self._status.peers.membership
        owned = sum(one["owned"] for one in self._status.servers())
        alive, waits_for = len(membership.alive), len(membership.waits_for)
        yield _gauge("peers_alive", "Gateways that are alive, this one included.", {(): alive})
        yield _gauge("owned_servers", "Servers that this gateway may use now.", {(): owned})
        yield _gauge(
            "peers_missing",
            "Gateways whose agreement is missing. When that lasts, their lists of gateways differ.",
            {(): waits_for},
        )

    def _totals(self) -> Iterator[Metric]:
        totals = self._dispatcher.totals
        yield _counter("requests", "Requests for embeddings by how they ended.", totals.requests, labels=_OUTCOME)
        yield _counter("texts", "Texts embedded.", _one({b: totals.texts[b] for b in Band}), labels=["band"])
        characters = _one({band: totals.characters[band] for band in Band})
        yield _counter("chars", "Characters of the texts embedded.", characters, labels=["band"])
        yield _counter("retries", "Requests sent to another server after a failure.", {(): totals.retries})
        refused = _one(self._app.refused)
        yield _counter("refused", "Requests that the gateway itself refused, by status.", refused, labels=["status"])


_OUTCOME: Final = ["band", "outcome"]


def _one(values: Mapping[Any, float]) -> dict[tuple[Any], float]:
    """Return values whose keys are the values of one label. Pure."""
    return {(key,): value for key, value in values.items()}


def _gauge(name: str, text: str, values: Mapping[Any, float], *, labels: Sequence[str] = ()) -> Metric:
    return _fill(GaugeMetricFamily(PREFIX + name, text, labels=labels), values)


def _counter(name: str, text: str, values: Mapping[Any, float], *, labels: Sequence[str] = ()) -> Metric:
    return _fill(CounterMetricFamily(PREFIX + name, text, labels=labels), values)


def _fill(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Any, float]) -> Metric:
    for key, value in values.items():
        family.add_metric([str(label) for label in key], value)
    return family
