"""Probes: cheap requests by which the driver notices that a dependency is available again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from ingestion_engine.domain.errors import IngestionError, TransientError
from ingestion_engine.domain.ids import PointId
from ingestion_engine.domain.ports import Embedder, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.spec import JobSpec, StoreName
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.state.ledger import Ledger

log = get_logger(__name__)

PROBE_LIMIT_S = 5.0
"""Seconds after which a probe counts as failed: a dependency that answers this slowly is still in trouble (a guess)."""

NO_POINT = PointId("00000000-0000-0000-0000-000000000000")
"""Id of no point: reading it costs one lookup, and shows that the collection is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Asks the dependency that raised a TransientError; called by the driver's thread, because of ``run_async``."""

    spec: JobSpec
    state: StateStore
    source: ObjectSource
    embedder: Embedder
    stores: Mapping[StoreName, VectorStore]
    run_async: Callable[[Coroutine[Any, Any, Any]], object]

    def __call__(self, code: str) -> bool | None:
        """Return True when the dependency answers, False when it is unavailable, None for an error of no dependency.

        A refusal is an answer: the work itself then reports it. At most two requests.
        """
        dependency = code.split("_", 1)[0]
        stores = [store for name, store in self.stores.items() if dependency in (name.value, "store")]
        try:
            if dependency in ("s3", "state"):
                # The bucket and the state store are mostly one server, and report the same codes.
                Ledger(self.state, self.spec.job_id).is_aborted()
                if dependency == "s3":
                    source = self.spec.request.source
                    self.source.check_bucket(source.bucket, source.narrowest_prefix())
            elif dependency in ("ollama", "gateway", "embedder"):
                self._ask(self.embedder.describe(self.spec.model))
            elif stores:
                for store in stores:
                    self._ask(store.read_points(self.spec.request.collection, [NO_POINT], with_vectors=False))
            else:
                return None
        except (TransientError, TimeoutError):
            return False
        except IngestionError:
            return True
        except Exception:  # a probe only shortens a pause: a defect of it must not end the job
            log.exception("a probe failed unexpectedly", extra={"error_code": code})
            return None
        return True

    def _ask(self, request: Coroutine[Any, Any, Any]) -> None:
        self.run_async(asyncio.wait_for(request, PROBE_LIMIT_S))
