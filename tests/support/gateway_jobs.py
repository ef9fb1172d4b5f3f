"""Jobs on the local engine, each in a process of its own, behind gateways or without one; and what they leave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.domain.records import StoredPoint
from ingestion_engine.domain.spec import EngineName, JobRequest, StoreName
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.specs import make_spec
from ingestion_engine.state.ledger import Ledger
from support.vector_stores import read_all

MODEL = "sim-384"
JOB_FIELDS = ("epoch", "job_id", "ingested_at")
"""Payload fields that differ between two jobs over the same objects."""
RUN_S = 120.0
"""A deadline, not a measurement."""


@dataclass(frozen=True, slots=True)
class JobWorld:
    """A bucket with objects, two stores, and a state store in a directory."""

    settings: Settings
    """With the secrets of the stores."""
    bucket: str

    def put_objects(self, count: int, paragraphs: int) -> int:
        """Put text objects; return the number of chunks that a job makes of them."""
        client = make_client(self.settings.s3)
        for number in range(count):
            text = "\n\n".join(
                f"Paragraph {n} of object {number} speaks at length about its subject." for n in range(paragraphs)
            )
            client.put_object(Bucket=self.bucket, Key=f"{number:03}.txt", Body=text.encode())
        client.close()
        return count * paragraphs

    @contextlib.contextmanager
    def running(
        self, collection: str, *, servers: Sequence[str], gateways: Sequence[str] = (), parallelism: int = 2
    ) -> Iterator[RunningJob]:
        """Run a job for the duration of the context; it is killed at the end if it has not ended."""
        settings = self.settings.model_copy(
            update={
                "ollama": self.settings.ollama.model_copy(update={"urls": tuple(servers)}),
                "gateway": self.settings.gateway.model_copy(update={"url": tuple(gateways)}),
            }
        )
        asked = JobRequest.model_validate(
            {
                "source": {"bucket": self.bucket},
                "collection": collection,
                "embedding": {"model": MODEL},
                "chunking": {"max_chars": 80, "overlap_chars": 0},
            }
        )
        job_id = f"job-{collection.replace('_', '-')}"
        spec = make_spec(settings, asked, EngineName.LOCAL, job_id, parallelism=parallelism)
        ledger = Ledger(LocalStateStore(spec.state_url), spec.job_id)
        ledger.write_spec(spec)
        command = [sys.executable, "-m", "ingestion_engine.driver.entry", "--spec", ledger.spec_uri, "--attempt", "1"]
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, env={**os.environ, **self._secrets()}, stdout=log, stderr=log)
            try:
                yield RunningJob(process, ledger)
            finally:
                process.kill()
                process.wait()

    def _secrets(self) -> dict[str, str]:
        values = {
            "INGEST_S3__ACCESS_KEY_ID": self.settings.s3.access_key_id,
            "INGEST_S3__SECRET_ACCESS_KEY": self.settings.s3.secret_access_key,
            "INGEST_QDRANT__API_KEY": self.settings.qdrant.api_key,
            "INGEST_WEAVIATE__API_KEY": self.settings.weaviate.api_key,
        }
        return {name: value.get_secret_value() for name, value in values.items() if value is not None}

    def read_points(self, collection: str) -> dict[StoreName, dict[str, tuple[dict[str, Any], bytes]]]:
        """Return payload, without what differs between jobs, and vector of every point by id, of both stores."""
        return asyncio.run(self._read(collection))

    async def _read(self, collection: str) -> dict[StoreName, dict[str, tuple[dict[str, Any], bytes]]]:
        found = {}
        stores = open_stores(self.settings, list(StoreName))
        try:
            for name, store in stores.items():
                points = await read_all(store, collection)
                assert len({point.id for point in points}) == len(points)
                found[name] = {str(point.id): _comparable(point) for point in points}
        finally:
            for store in stores.values():
                await store.close()
        return found


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job's driver."""

    process: subprocess.Popen[bytes]
    ledger: Ledger

    def wait(self, state: str = "succeeded") -> dict[str, Any]:
        """Wait for the end; return the summary of the job, which has this state."""
        self.process.wait(RUN_S)
        summary = self.ledger.read_summary()
        assert summary is not None
        assert summary["state"] == state, summary
        return summary


def _comparable(point: StoredPoint) -> tuple[dict[str, Any], bytes]:
    assert point.vector is not None
    payload = {name: value for name, value in point.payload.items() if name not in JOB_FIELDS}
    return payload, np.asarray(point.vector, dtype=np.float32).tobytes()
