"""Sweeps: what the dispatching copy of the service completes regularly, because a request could not complete it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.telemetry import get_logger

SWEEP_S: Final = 10.0
"""Pause between two sweeps; one without work costs one listing, and a read or two per alias."""

_log = get_logger(__name__)


async def sweep_regularly(
    what: str, sweep: Callable[[], Awaitable[None]], *, may_act: Callable[[], bool], every_s: float = SWEEP_S
) -> None:
    """Sweep regularly until canceled; errors are logged and do not end it.

    Args:
        what: What is swept, for the log.
        sweep: Makes one sweep.
        may_act: Returns True while this copy of the service is the one that sweeps.
        every_s: Pause between two sweeps in seconds.
    """
    while True:
        try:
            if may_act():
                await sweep()
        except IngestionError as error:
            _log.warning("sweep failed", extra={"what": what, **error.log_fields()})
        except Exception:  # the top of a service loop: the next sweep starts from the state store again
            _log.exception("sweep failed unexpectedly", extra={"what": what})
        await asyncio.sleep(every_s)
