"""What running jobs wait for at the gateways: one question for all jobs and callers, and never an error of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.ports import EmbeddingGateway
from ingestion_engine.domain.records import EmbeddingWait
from ingestion_engine.domain.states import JobState
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.services.job_records import JobRecord
from ingestion_engine.services.response_cache import ResponseCache

KEEP_S: Final = 1.0
"""How long an answer of the gateways is reused, in seconds: they are asked once per second, however many jobs are
followed."""

READ_LIMIT_S: Final = 0.3
"""Time limit in seconds of one question: a request for a job waits for it, and shows the job without it."""

DROP_LIMIT_S: Final = 1.0
"""Time limit in seconds to drop the flow of a job; its workers end by the abort marker all the same."""

_log = get_logger(__name__)


class EmbeddingWaits:
    """Shared by all requests of one event loop. Without a gateway it knows nothing."""

    def __init__(self, gateway: EmbeddingGateway | None) -> None:
        self._gateway = gateway
        self._cache = ResponseCache()

    async def find(self, *jobs: JobRecord) -> dict[str, EmbeddingWait]:
        """Return what those of the jobs wait for that run, by id; empty while no gateway answers in time.

        Cost: at most one request per gateway and second.
        """
        running = [job.id for job in jobs if job.state is JobState.RUNNING]
        if self._gateway is None or not running:
            return {}
        flows = await self._cache.get("flows", self._read, keep_s=KEEP_S)
        # A job that has no requests at the gateways at this moment waits for nothing there.
        return {} if flows is None else {job_id: flows.get(job_id, EmbeddingWait()) for job_id in running}

    async def drop(self, job_id: str) -> None:
        """Drop what a job that ends has waiting at the gateways, as far as they answer."""
        if self._gateway is None:
            return
        try:
            async with asyncio.timeout(DROP_LIMIT_S):
                await self._gateway.drop_flow(job_id)
        except (IngestionError, TimeoutError) as error:
            reason = str(error) or f"no response within {DROP_LIMIT_S:g} s"
            _log.warning("flow of a job not dropped", extra={"job_id": job_id, "error": reason})

    async def _read(self) -> Mapping[str, EmbeddingWait] | None:
        assert self._gateway is not None
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                return await self._gateway.read_flows()
        except (IngestionError, TimeoutError):
            return None  # GET /readyz names the gateway and the reason


def describe_wait(wait: EmbeddingWait) -> str | None:
    """Return a note about a job that waits behind others; None when it does not. Pure."""
    if not wait.queued or not wait.ahead:
        return None
    return f"Embedding: {wait.ahead} of {wait.of} flows ahead."
