"""A job over TLS to every system, with certificates of a private authority: one setting is enough."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from ingestion_devstack.stack.stack import Stack
from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.runtime.settings import Settings
from support.authority import Fault, PrivateAuthority

PORTS = ("INGEST_S3__ENDPOINT_URL", "INGEST_OLLAMA__URLS", "INGEST_QDRANT__URL", "INGEST_WEAVIATE__URL")
REQUEST = {"source": {"bucket": "docs"}, "embedding": {"model": "hash-384"}}
_numbers = itertools.count(1)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction of a connection to its end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


@contextlib.asynccontextmanager
async def terminate_tls(authority: PrivateAuthority, port: int, fault: Fault | None) -> AsyncIterator[int]:
    """Serve a plain server over TLS; the port."""

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    context = authority.context(fault)
    context.set_alpn_protocols(["h2", "http/1.1"] if fault is None else ["http/1.1"])
    server = await asyncio.start_server(connect, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()


@contextlib.contextmanager
def secured(env: Mapping[str, str], authority: PrivateAuthority, **faults: Fault) -> Iterator[dict[str, str]]:
    """Yield variables in which every server is behind TLS; ``faults`` by a part of the variable's name."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    exits = contextlib.AsyncExitStack()

    async def open_all() -> dict[str, str]:
        changed = dict(env)
        for name in (*PORTS, "INGEST_WEAVIATE__GRPC_URL"):
            fault = next((fault for part, fault in faults.items() if part.upper() in name), None)
            port = int(env[name].rpartition(":")[2])
            changed[name] = (
                f"https://127.0.0.1:{await exits.enter_async_context(terminate_tls(authority, port, fault))}"
            )
        return changed

    try:
        yield asyncio.run_coroutine_threadsafe(open_all(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(exits.aclose(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All systems of a local job, and two objects."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("tls") / "home")
    only = {"s3", "ollama", "qdrant", "weaviate"}
    with Stack(settings, only=only, with_api=False, ollama_arguments=("--faults", "--test-models")) as stack:
        client = make_client(stack.settings.s3)
        for number in range(2):
            client.put_object(Bucket="docs", Key=f"{number}.txt", Body=b"Text %d." % number)
        yield stack


def run_job(env: Mapping[str, str], folder: Path, ca_file: Path | None) -> tuple[int, dict[str, Any], str]:
    """Run `ingest worker run`; return its exit code, the summary and the log."""
    file = folder / "request.json"
    file.write_bytes(orjson.dumps({**REQUEST, "collection": f"secure_{next(_numbers)}"}))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("INGEST_", "AWS_"))}
    trust = {} if ca_file is None else {"INGEST_TLS__CA_FILE": str(ca_file)}
    command = [sys.executable, "-m", "ingestion_engine.cli", "worker", "run", str(file)]
    done = subprocess.run(
        command, env={**clean, **env, **trust}, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, orjson.loads(done.stdout) if done.stdout.strip() else {}, done.stderr


def test_a_job_needs_one_setting(running: Stack, tmp_path: Path) -> None:
    """S3 by both clients, Ollama, Qdrant, and Weaviate's two ports."""
    authority = PrivateAuthority(tmp_path)
    with secured(running.env, authority) as env:
        code, summary, log = run_job(env, tmp_path, authority.file)
    assert (code, summary["counts"]["done"]) == (0, 2), log
    assert "obstore failed" not in log


@pytest.mark.parametrize("system", ["ollama", "qdrant", "weaviate__grpc"])
@pytest.mark.parametrize("fault", [Fault.EXPIRED, Fault.STRANGER])
def test_a_bad_certificate_ends_a_new_job_at_once(running: Stack, tmp_path: Path, system: str, fault: Fault) -> None:
    """With the reason and the setting; nothing is written, and nobody waits for hours."""
    authority = PrivateAuthority(tmp_path)
    with secured(running.env, authority, **{system: fault}) as env:
        code, summary, log = run_job(env, tmp_path, authority.file)
    assert (code, summary["state"], summary["error"]["code"]) == (3, "failed", "tls_failed"), log
    assert "INGEST_TLS__CA_FILE" in summary["error"]["hint"]


def test_without_the_setting_the_state_store_is_named(running: Stack, tmp_path: Path) -> None:
    """The first request of all is the one that fails."""
    authority = PrivateAuthority(tmp_path)
    with secured(running.env, authority) as env:
        code, summary, log = run_job(env, tmp_path, None)
    assert (code, summary) == (1, {})
    assert "is not trusted" in log
    assert "INGEST_TLS__CA_FILE" in log
