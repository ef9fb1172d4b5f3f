"""A copy of the service with another clock and with doubles for all systems but database and state store.

Everything else is the product's `ingest serve`. Variables: DRILL_ENGINE (directory of ``FileEngine``), DRILL_SKEW_S
(how far this copy's clock is ahead), DRILL_HOLD_S (time after which a dead dispatcher is replaced; unset means the
product's), DRILL_STOP_AT (text of a statement after which this process stops itself with SIGSTOP before it commits).
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

SKEW_S = float(os.environ.get("DRILL_SKEW_S", "0"))


def shift_clock() -> None:
    """Shift both clocks of the product, before any module has imported them; monotonic time is nobody's to shift."""
    from ingestion_engine.runtime import timestamps

    real_ns = time.time_ns
    timestamps.utc_now = lambda: dt.datetime.now(dt.UTC) + dt.timedelta(seconds=SKEW_S)
    time.time_ns = lambda: real_ns() + int(SKEW_S * 1e9)


def hold_for(seconds: float) -> None:
    """Shorten the lease, so that a drill lasts seconds."""
    from ingestion_engine.services import leadership

    leadership.HOLD_S = seconds  # type: ignore[misc]  # a constant of the product
    leadership.RENEW_S = seconds / 3  # type: ignore[misc]  # as above


def stop_at(statement: str) -> None:
    """Stop this process once, with a statement executed and its transaction not yet committed."""
    import sqlalchemy as sa

    met = []

    def note(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        if statement in text and not met:
            met.append(text)
            os.kill(os.getpid(), signal.SIGSTOP)

    sa.event.listen(sa.engine.Engine, "after_cursor_execute", note)


def main() -> int:
    """Serve until SIGTERM."""
    shift_clock()
    if hold := os.environ.get("DRILL_HOLD_S"):
        hold_for(float(hold))
    if statement := os.environ.get("DRILL_STOP_AT"):
        stop_at(statement)
    from ingestion_engine.adapters.connect import open_state_store

    try:
        from ingestion_engine.server import app, serve
    except ImportError:  # a former release, beside this one
        from ingestion_engine.api import app, serve  # type: ignore[attr-defined,no-redef]  # it was there
    from ingestion_engine.api.context import Parts
    from ingestion_engine.domain.spec import EngineName, StoreName
    from ingestion_engine.runtime.settings import Settings, load_settings
    from support.doubles import HashEmbedder, MemoryBucket, MemoryStore
    from support.file_engine import FileEngine

    def open_parts(settings: Settings) -> Parts:
        return Parts(
            source=MemoryBucket(),
            embedder=HashEmbedder(),
            state=open_state_store(settings),
            stores={name: MemoryStore(name) for name in StoreName},
            engines={EngineName.RAY: FileEngine(Path(os.environ["DRILL_ENGINE"]))},
        )

    app.open_parts = open_parts  # type: ignore[assignment]  # the seam of the composition root
    serve.serve(load_settings())
    return 0


if __name__ == "__main__":
    sys.exit(main())
