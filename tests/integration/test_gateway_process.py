"""``ingest gateway`` as a process: its start, its log, and its end by a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import httpx

from support.scripted_ollama import EMBEDDED, ScriptedOllama, serving
from support.servers import RunningServer, answers, free_port, start_command
from support.waiting import eventually


def _start(folder: Path, upstream: str) -> RunningServer:
    port = free_port()
    return start_command(
        "gateway",
        [sys.executable, "-m", "ingestion_engine.cli", "gateway", "--port", str(port)],
        url=f"http://127.0.0.1:{port}",
        log=folder / "gateway.log",
        env={"INGEST_OLLAMA__URLS": upstream, "INGEST_EMBED__IN_FLIGHT": "1"},
        is_ready=answers(f"http://127.0.0.1:{port}/livez"),
    )


async def test_a_signal_ends_the_gateway_without_losing_what_is_in_flight(tmp_path: Path) -> None:
    """The waiting request is refused with 503, the one in flight gets its answer, and the exit code is 0."""
    ollama = ScriptedOllama()
    ollama.gate = asyncio.Event()
    async with serving(ollama) as upstream:
        server = await asyncio.to_thread(_start, tmp_path, upstream)
        try:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
                body = {"model": "m", "input": ["x"]}
                running = asyncio.create_task(http.post("/api/embed", json=body))
                await eventually(lambda: ollama.open == 1)
                waiting = asyncio.create_task(http.post("/api/embed", json=body))
                while (await http.get("/gateway/flows")).json()["queued"] == 0:
                    pass  # each look is a request, in which the event loop runs
                server.process.send_signal(signal.SIGTERM)
                refused = await waiting
                assert (refused.status_code, refused.json()) == (
                    503,
                    {"error": "The gateway is stopping; use another one."},
                )
                ollama.gate.set()
                assert (await running).content == EMBEDDED
            assert await asyncio.to_thread(server.process.wait, 60) == 0
        finally:
            server.kill()
    log = (tmp_path / "gateway.log").read_text(encoding="utf-8")
    assert f"serving url={server.url}" in log
    assert "stopping" in log
    assert "Traceback" not in log
    assert len(ollama.embedded) == 1
