"""Qdrant and its official client: the address of the server, and points to write."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from support import servers
from support.servers import RunningServer

DIMENSION = 8


@dataclass(frozen=True, slots=True)
class Server:
    """Address and key of a running server."""

    url: str
    api_key: str | None
    running: RunningServer | None
    """None for a server that was not started here."""

    def http(self) -> httpx.Client:
        headers = {"api-key": self.api_key} if self.api_key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def client(self) -> QdrantClient:
        return QdrantClient(url=self.url, api_key=self.api_key, timeout=30, check_compatibility=False)


def start_stand_in(data_dir: Path) -> Server:
    running = servers.start_qdrant(data_dir)
    return Server(running.url, running.secrets["QDRANT_API_KEY"], running)


def end_stand_in(server: Server, number: signal.Signals) -> int:
    assert server.running is not None
    server.running.process.send_signal(number)
    return server.running.process.wait(timeout=15)


def embedded_only(server: Server) -> None:
    if server.running is None:
        pytest.skip("about the stand-in, not about the real server")


def vector_of(seed: int) -> list[float]:
    values = np.random.default_rng(seed).normal(size=DIMENSION)
    return [float(value) for value in values / np.linalg.norm(values)]


def points_of(count: int) -> list[models.PointStruct]:
    return [
        models.PointStruct(id=number, vector=vector_of(number), payload={"number": number, "even": number % 2 == 0})
        for number in range(count)
    ]


def error_of(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) <= {"status", "time", "usage"}
    return response.status_code, body["status"]["error"]
