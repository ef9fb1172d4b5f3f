"""A whole job while Qdrant is in trouble for a moment: it costs no vectors, and the counts are true."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from ingestion_engine.adapters.local_files import LocalStateStore
from ingestion_engine.domain.spec import EngineName, JobRequest
from ingestion_engine.runtime.settings import S3Settings, Settings
from ingestion_engine.services.specs import make_spec
from ingestion_engine.state.ledger import Ledger
from support.answering import running
from support.servers import RunningServer
from support.vector_stores import make_settings

CHUNKS = 30
HOP = frozenset({"connection", "content-length", "date", "host", "server", "transfer-encoding"})


class Trouble:
    """A proxy in front of Qdrant that answers the next writes of points itself."""

    def __init__(self, target: str) -> None:
        self._client = httpx.Client(base_url=target, timeout=30)
        self._lock = threading.Lock()
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.writes = 0

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if method == "PUT" and "/points" in path:
            with self._lock:
                self.writes += 1
                if self.answers:
                    return self.answers.pop(0)
        kept = {name: value for name, value in headers.items() if name.lower() not in HOP}
        found = self._client.request(method, path, headers=kept, content=body)
        return found.status_code, {n: v for n, v in found.headers.items() if n.lower() not in HOP}, found.content


def handler_of(trouble: Trouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = trouble.answer(self.command, self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the library's own names

        def log_message(self, *_: object) -> None: ...

    return Handler


def refusal(status: int, text: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, headers, orjson.dumps({"status": {"error": text}, "time": 0.0})


@pytest.mark.parametrize(
    "answer",
    [
        refusal(429, "Rate limiting exceeded: Write rate limit exceeded: Retry after 1s", **{"Retry-After": "1"}),
        refusal(500, "Service internal error: No space left on device: WAL buffer size exceeds available disk space"),
        (404, {}, b"default backend - 404"),
    ],
    ids=["rate limit", "full disk", "proxy"],
)
def test_a_passing_refusal_costs_no_vectors(
    answer: tuple[int, dict[str, str], bytes],
    tmp_path: Path,
    s3_settings: S3Settings,
    s3_bucket: str,
    ollama_server: RunningServer,
    request: pytest.FixtureRequest,
) -> None:
    """No partition is returned, every text is embedded once, and both stores have all points."""
    stores = make_settings(request)
    trouble = Trouble(stores.qdrant.url or "")
    trouble.answers += [answer] * 2
    collection = f"trouble_{tmp_path.name.replace('-', '_')}"[:60]
    with running(handler_of(trouble)) as url:
        settings = Settings(
            s3=s3_settings,
            ollama={"urls": ollama_server.url},
            qdrant={"url": url},
            weaviate=stores.weaviate,
            state_url=f"file://{tmp_path}/state",
        )
        _put(settings, s3_bucket)
        before = httpx.get(f"{ollama_server.url}/_stats").json()
        summary = _run(settings, stores, s3_bucket, collection)
        after = httpx.get(f"{ollama_server.url}/_stats").json()
    counts = summary["counts"]
    assert summary["state"] == "succeeded", summary
    assert trouble.answers == []
    assert counts["chunks"] == CHUNKS
    assert counts["texts_embedded"] == after["texts_embedded"] - before["texts_embedded"] == CHUNKS
    assert counts["embed_calls"] == after["embed_requests"] - before["embed_requests"]
    assert counts["partitions_repeated"] == 0


def _put(settings: Settings, bucket: str) -> None:
    from ingestion_engine.adapters.s3.client import make_client

    client = make_client(settings.s3)
    for number in range(3):
        text = "\n\n".join(f"Paragraph {n} of object {number} speaks at length about its subject." for n in range(10))
        client.put_object(Bucket=bucket, Key=f"{number}.txt", Body=text.encode())
    client.close()


def _run(settings: Settings, stores: Settings, bucket: str, collection: str) -> dict[str, Any]:
    """Run a job on the local engine in a process of its own; its secrets are in that process's environment only."""
    asked = JobRequest.model_validate(
        {
            "source": {"bucket": bucket},
            "collection": collection,
            "embedding": {"model": "hash-384"},
            "chunking": {"max_chars": 80, "overlap_chars": 0},
        }
    )
    spec = make_spec(settings, asked, EngineName.LOCAL, f"job-{collection.replace('_', '-')}", parallelism=1)
    ledger = Ledger(LocalStateStore(spec.state_url), spec.job_id)
    ledger.write_spec(spec)
    secrets = {
        "INGEST_S3__ACCESS_KEY_ID": settings.s3.access_key_id,
        "INGEST_S3__SECRET_ACCESS_KEY": settings.s3.secret_access_key,
        "INGEST_QDRANT__API_KEY": stores.qdrant.api_key,
        "INGEST_WEAVIATE__API_KEY": stores.weaviate.api_key,
    }
    env = {**os.environ, **{name: value.get_secret_value() for name, value in secrets.items() if value is not None}}
    command = [sys.executable, "-m", "ingestion_engine.driver.entry", "--spec", ledger.spec_uri, "--attempt", "1"]
    subprocess.run(command, check=True, env=env, capture_output=True)
    summary = ledger.read_summary()
    assert summary is not None
    return summary
