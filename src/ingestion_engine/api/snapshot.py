"""Takes the snapshot of the service that its metrics show."""

from __future__ import annotations

import contextlib

from ingestion_engine.api.context import Services
from ingestion_engine.api.metrics import Snapshot
from ingestion_engine.domain.errors import DatabaseUnavailable
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.services.health import ANSWER_S


async def take_snapshot(services: Services) -> Snapshot:
    """Return the state of the service now, without the numbers of jobs while the database is unavailable.

    Cost: two queries; checks of dependencies as for a probe.
    """
    health = await services.health.check(ANSWER_S)
    store, dispatcher, retention = services.store, services.dispatcher, services.retention
    jobs: dict[tuple[str, str], int] | None = None
    oldest: dict[tuple[str, str], Moment] = {}
    with contextlib.suppress(DatabaseUnavailable):
        jobs = await store.count_by_state()
        oldest = await store.find_oldest_active()
    return Snapshot(
        now=store.now(),
        jobs=jobs,
        oldest=oldest,
        unreadable=len(store.unreadable),
        leadership=None if dispatcher is None else dispatcher.leadership.view(),
        waiting=() if dispatcher is None else list(dispatcher.waiting.values()),
        counters=store.counters,
        health=health,
        connections=store.database.count_connections(),
        draining=await services.drain.peek() is not None,
        audited=dict(services.audit.entries),
        audit_waiting=services.audit.waiting,
        audit_lost={"table": services.audit.lost, "lines": services.audit.lines_lost},
        backlog={} if retention is None else {"due": retention.backlog, "needed": retention.needed},
        loop_lag_s=services.loop_lag.longest_s(),
    )
