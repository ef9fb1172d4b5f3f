"""What integration tests do with a running stack: upload, submit, wait, read both stores with the official clients,
compare.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import botocore.session
import httpx
import numpy as np
import numpy.typing as npt
import psutil
import qdrant_client
import weaviate
from botocore.config import Config
from weaviate.classes.init import AdditionalConfig, Auth, Timeout

from ingestion_devstack.stack.service import Service
from ingestion_engine.adapters.connect import open_state_store
from ingestion_engine.domain.spec import EngineName, JobRequest
from ingestion_engine.driver.commit import attempt_reports
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.specs import make_spec
from ingestion_engine.state.ledger import Ledger
from support.collector import Collector
from support.waiting import wait_for

FINAL = {"succeeded", "partially_succeeded", "failed", "canceled"}
JOB_FIELDS = {"epoch", "job_id", "ingested_at"}
GUARD = "ingestion_devstack.stack.guard"
APPLICATIONS = "/apis/sparkoperator.k8s.io/v1beta2/namespaces/{}/sparkapplications"

Points = dict[str, tuple[dict[str, Any], npt.NDArray[np.float32]]]
"""Payload and vector by point id."""


@dataclass
class Platform:
    """A running stack."""

    settings: Settings
    env: Mapping[str, str]
    http: httpx.Client
    services: Mapping[str, Service]
    collector: Collector = field(default_factory=lambda: Collector(""))
    """Receives the traces of requests that come with a sampled ``traceparent``, and of no others."""

    def s3(self) -> Any:
        """The official client of the stack's S3."""
        key, secret = self.settings.s3.access_key_id, self.settings.s3.secret_access_key
        assert key is not None
        assert secret is not None
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.settings.s3.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=key.get_secret_value(),
            aws_secret_access_key=secret.get_secret_value(),
            config=Config(s3={"addressing_style": "path"}),
        )

    def upload(self, bucket: str, objects: Iterable[tuple[str, bytes]]) -> None:
        """Put objects."""
        s3 = self.s3()
        for key, body in objects:
            s3.put_object(Bucket=bucket, Key=key, Body=body)

    def submit(self, engine: str = "ray", **request: Any) -> str:
        """POST a job that must be accepted; return its id."""
        answer = self.http.post(f"/{engine}/jobs", json={"embedding": {"model": "hash-384"}, **request})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def wait(self, job_id: str, timeout_s: float = 240) -> dict[str, Any]:
        """Poll a job to its end."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
            if job["state"] in FINAL:
                return job
            time.sleep(0.2)
        raise AssertionError(f"{job_id} did not end: {job}\n{self.http.get(f'/jobs/{job_id}/logs').text}")

    def run(self, engine: str = "ray", **request: Any) -> dict[str, Any]:
        """Submit and wait."""
        return self.wait(self.submit(engine, **request))

    def wait_until(self, job_id: str, fact: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Poll a job until the fact holds; fail when it does not within 180 s."""
        deadline = time.monotonic() + 180
        while not fact(job := self.http.get(f"/jobs/{job_id}").json()):
            assert time.monotonic() < deadline, job
            assert job["state"] not in FINAL, job
            time.sleep(0.1)
        return job

    def run_local(self, job_id: str, **request: Any) -> dict[str, Any]:
        """Run a job on the local engine in a process of its own, as ``ingest worker run`` does; return its summary."""
        ledger = self.write_spec("local", job_id, **request)
        command = [sys.executable, "-m", "ingestion_engine.driver.entry", "--spec", ledger.spec_uri, "--attempt", "1"]
        subprocess.run(command, check=True, env={**os.environ, **self.env}, stdout=subprocess.DEVNULL)
        summary = ledger.read_summary()
        assert summary is not None
        return summary

    def write_spec(self, engine: str, job_id: str, *, outage_retry_s: float | None = None, **request: Any) -> Ledger:
        """Write the spec of a job that the service does not know; return its ledger.

        Args:
            engine: Engine that will run it.
            job_id: Id of the job.
            outage_retry_s: First pause after an outage. Unset means the stack's own.
            request: Fields of the request.
        """
        asked = JobRequest.model_validate({"embedding": {"model": "hash-384"}, **request})
        settings = self.settings
        if outage_retry_s is not None:
            lease = settings.lease.model_copy(update={"outage_retry_s": outage_retry_s})
            settings = settings.model_copy(update={"lease": lease})
        ledger = self.ledger(job_id)
        ledger.write_spec(make_spec(settings, asked, EngineName(engine), job_id, parallelism=asked.parallelism))
        return ledger

    def wait_for_summary(self, ledger: Ledger, timeout_s: float = 120) -> dict[str, Any]:
        """Poll a ledger until its job has ended."""
        return wait_for(ledger.read_summary, timeout_s, every_s=0.2)

    def ledger(self, job_id: str) -> Ledger:
        """The job's ledger."""
        return Ledger(open_state_store(self.settings), job_id)

    def failures(self, job_id: str) -> dict[str, str]:
        """Code by key of every failure, through the API's pages."""
        found: dict[str, str] = {}
        cursor: str | None = None
        while True:
            params = {"limit": 17, **({"cursor": cursor} if cursor else {})}
            page = self.http.get(f"/jobs/{job_id}/failures", params=params).json()
            for item in page["items"]:
                assert item["reason"]
                assert item["key"] not in found
                found[item["key"]] = item["code"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def reports(self, job_id: str) -> list[dict[str, Any]]:
        """What became of every object, without what depends on timing."""
        results = [
            {"key": r.key, "outcome": r.outcome, "etag": r.etag, "chunks": r.chunk_count, "digest": r.points_digest}
            | {"code": r.error_code, "reason": r.reason}
            for report in attempt_reports(self.ledger(job_id), 1)
            for r in report.results
        ]
        return sorted(results, key=lambda r: str(r["key"]))

    def qdrant(self) -> qdrant_client.QdrantClient:
        """The official client."""
        key = self.settings.qdrant.api_key
        return qdrant_client.QdrantClient(
            url=self.settings.qdrant.url,
            api_key=key.get_secret_value() if key else None,
            check_compatibility=False,
            timeout=60,
        )

    def weaviate(self) -> weaviate.WeaviateClient:
        """The official client."""
        rest = httpx.URL(self.settings.weaviate.url or "")
        grpc = httpx.URL(self.settings.weaviate.grpc_url or "")
        key = self.settings.weaviate.api_key
        return weaviate.connect_to_custom(
            http_host=rest.host,
            http_port=rest.port or 80,
            http_secure=False,
            grpc_host=grpc.host,
            grpc_port=grpc.port or 50051,
            grpc_secure=False,
            auth_credentials=Auth.api_key(key.get_secret_value()) if key else None,
            additional_config=AdditionalConfig(timeout=Timeout(query=60)),
            skip_init_checks=True,
        )

    def qdrant_points(self, collection: str) -> Points:
        """Everything in Qdrant, read by its official client."""
        points: Points = {}
        client, offset = self.qdrant(), None
        while True:
            page, offset = client.scroll(collection, limit=1000, offset=offset, with_vectors=True)
            for point in page:
                points[str(point.id)] = (dict(point.payload or {}), np.array(point.vector, dtype=np.float32))
            if offset is None:
                client.close()
                return points

    def weaviate_points(self, collection: str) -> Points:
        """Everything in Weaviate, read by its official client, in Qdrant's spelling."""
        points: Points = {}
        with self.weaviate() as client:
            held = client.collections.get(collection[0].upper() + collection[1:])
            for item in held.iterator(include_vector=True, cache_size=1000):
                payload = {name: value for name, value in item.properties.items() if value is not None}
                payload["object_id"] = str(payload["object_id"])
                payload["ingested_at"] = payload["ingested_at"].strftime("%Y-%m-%dT%H:%M:%SZ")
                if "metadata" in payload:
                    payload["metadata"] = dict(pair.split("=", 1) for pair in payload["metadata"])
                points[str(item.uuid)] = (payload, np.array(item.vector["default"], dtype=np.float32))
        return points

    def both(self, collection: str) -> Points:
        """Everything, after proving that both stores hold the same: ids, payloads field by field, vectors within
        1e-5.
        """
        left, right = self.qdrant_points(collection), self.weaviate_points(collection)
        assert left.keys() == right.keys()
        for point_id, (payload, vector) in left.items():
            assert payload == right[point_id][0], point_id
            assert np.abs(vector - right[point_id][1]).max() < 1e-5
        return left

    def embed(self, texts: list[str], model: str = "hash-384") -> npt.NDArray[np.float32]:
        """What the embedder returns."""
        url = self.settings.ollama.urls[0]
        answer = httpx.post(f"{url}/api/embed", json={"model": model, "input": texts, "truncate": False}, timeout=60)
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["embeddings"], dtype=np.float32)

    def embed_requests(self) -> int:
        """Embed requests that the embedder has seen so far."""
        return int(httpx.get(f"{self.settings.ollama.urls[0]}/_stats").json()["embed_requests"])

    def fault(self, fault: Mapping[str, Any]) -> None:
        """Arm a fault of the embedder; {} disarms it."""
        answer = httpx.post(f"{self.settings.ollama.urls[0]}/_faults", content=json.dumps(fault))
        assert answer.status_code == 200, answer.text

    @contextlib.contextmanager
    def kubernetes(self) -> Iterator[httpx.Client]:
        """The Kubernetes API, by the stack's own kubeconfig."""
        assert self.settings.spark.kubeconfig is not None
        config = json.loads(self.settings.spark.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        with httpx.Client(
            base_url=cluster["server"],
            headers={"Authorization": f"Bearer {user['token']}"},
            verify=ssl.create_default_context(cadata=authority),
        ) as client:
            yield client

    def fault_kubernetes(self, fault: Mapping[str, Any]) -> None:
        """Arm a fault of the Kubernetes API; {} disarms it."""
        with self.kubernetes() as client:
            answer = client.post("/_faults", json=fault)
        assert answer.status_code == 200, answer.text

    def applications(self) -> dict[str, dict[str, Any]]:
        """Every SparkApplication by name."""
        path = APPLICATIONS.format(self.settings.spark.namespace)
        with self.kubernetes() as client:
            return {item["metadata"]["name"]: item for item in client.get(path).json()["items"]}

    def find_drivers(self, job_id: str) -> list[psutil.Process]:
        """The processes of a job's drivers, parents first, without the shells and guards around them."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if any(f"/{job_id}/" in part for part in command) and GUARD not in command and command[1:2] != ["-c"]:
                found.append(process)
        return sorted(found, key=lambda process: process.create_time())


def without_job_fields(points: Points) -> dict[str, tuple[dict[str, Any], list[float]]]:
    """Points for a comparison between jobs."""
    return {
        point_id: ({k: v for k, v in payload.items() if k not in JOB_FIELDS}, vector.tolist())
        for point_id, (payload, vector) in points.items()
    }
