"""Names and labels of all metrics of service and gateway, from their real collectors; samples are not needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import Counter, Histogram
from prometheus_client.metrics_core import Metric

from ingestion_engine.api.metrics import Metrics, Snapshot, _State
from ingestion_engine.gateway.assembly import Gateway
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.timestamps import utc_now

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


async def find_exported() -> dict[str, frozenset[str]]:
    """Labels by name of a sample. Needs a running event loop, as the gateway does."""
    gateway = Gateway(Settings())
    try:
        service = Metrics()
        registries = [service._registry, gateway._metrics._registry]
        collectors = [one for registry in registries for one in registry._collector_to_names]
        return dict(_read([*collectors, _State(Snapshot(now=utc_now(), jobs=None), service.load)]))
    finally:
        await gateway.close()


def _read(collectors: list[Any]) -> Iterator[tuple[str, frozenset[str]]]:
    for collector in collectors:
        parts = [collector] if isinstance(collector, Counter | Histogram) else collector.collect()
        for part in parts:
            name, kind = (part.name, part.type) if isinstance(part, Metric) else (part._name, part._type)
            for suffix in SUFFIXES[kind]:
                yield name + suffix, frozenset(part._labelnames) | ({"le"} if suffix == "_bucket" else set())
