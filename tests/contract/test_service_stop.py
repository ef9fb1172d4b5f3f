"""SIGTERM: the copy that dispatches hands over at once, ends its event streams, and answers what is under way."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.servers import free_port
from support.waiting import wait_for

HAND_OVER_S = 4.0
"""A copy asks every two seconds whether the right to dispatch is free; a slow machine needs the rest. Before, the right
was held for the five seconds that event streams had to end."""


@contextlib.contextmanager
def run_copy(folder: Path, name: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `ingest serve` on the database of the folder, with a Ray that is away; yield the process and its URL."""
    log = folder / f"{name}.log"
    environment = {
        **os.environ,
        "INGEST_DATA_DIR": str(folder),
        "INGEST_STATE_URL": f"file://{folder}/state",
        "INGEST_RAY__ADDRESS": f"http://127.0.0.1:{free_port()}",
    }
    command = [sys.executable, "-c", "from ingestion_engine.cli import main; main()", "serve", "--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        found = wait_for(lambda: re.search(r"serving url=(\S+)", log.read_text()))
        wait_for(lambda: is_alive(found[1]))
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def is_alive(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/livez").status_code == 200
    return False


def leads(url: str) -> bool:
    return bool(httpx.get(f"{url}/readyz", timeout=30).json()["dispatcher"]["leading"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_another_copy_takes_over_at_once_although_a_job_is_being_followed(folder: Path) -> None:
    """The stream ends instead of being cut off when the time for open responses is over."""
    with run_copy(folder, "first") as (process, url):
        wait_for(lambda: leads(url))
        with run_copy(folder, "second") as (_, other):
            assert not leads(other)
            job_id = insert_job(folder)
            began, ended = threading.Event(), threading.Event()
            lines: list[str] = []

            def follow() -> None:
                with httpx.stream("GET", f"{url}/jobs/{job_id}/events", timeout=60) as answer:
                    for line in answer.iter_lines():
                        lines.append(line)
                        began.set()
                ended.set()

            thread = threading.Thread(target=follow)
            thread.start()
            assert began.wait(30)
            at = time.monotonic()
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: leads(other))
            took_s = time.monotonic() - at
            assert process.wait(30) == -signal.SIGTERM
            assert time.monotonic() - at < HAND_OVER_S + 3
            thread.join(30)
            assert ended.is_set()
            assert took_s < HAND_OVER_S, f"the other copy dispatched after {took_s:.1f} s"
    log = (folder / "first.log").read_text()
    assert "stopping" in log
    assert "timeout graceful shutdown exceeded" not in log


def insert_job(folder: Path) -> str:
    """Put a job into the database that waits for an engine that is not there."""
    script = (
        "import asyncio, sys\n"
        "from ingestion_engine.services.job_store import JobStore\n"
        "from support.control import queued\n"
        "async def insert():\n"
        "    store = await JobStore.open(sys.argv[1])\n"
        "    await store.insert(queued(1, 'notes', request={'source': {'bucket': 'docs'}, 'collection': 'notes'}))\n"
        "    await store.close()\n"
        "asyncio.run(insert())\n"
    )
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    url = f"sqlite:///{folder}/jobs.db"
    subprocess.run([sys.executable, "-c", script, url], check=True, env={**os.environ, "PYTHONPATH": paths})
    return "job-1"
