"""An engine that several processes share: a directory with one file per driver, as a cluster has one record of each.

``FileEngine`` is what the copies of the service use. ``DriverHost`` is the cluster: it runs a driver for every
attempt that was submitted, which writes progress and summary into the ledger, and ends those that a drill kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.domain.ports import EngineStatus, StateStore
from ingestion_engine.domain.states import EngineState
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.ledger import Ledger


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    part.write_text(text)
    part.replace(path)


@dataclass
class FileEngine:
    """JobEngine over the directory. A submission takes as long as a cluster's."""

    folder: Path
    submit_s: float = 0.05

    def reference(self, job_id: str, attempt: int) -> str:
        return f"{job_id}.{attempt:02d}"

    async def submit(self, job_id: str, attempt: int, spec_uri: str, parallelism: int) -> None:
        await asyncio.sleep(self.submit_s / 2)
        path = self.folder / self.reference(job_id, attempt)
        with (self.folder / "submissions.log").open("a") as log:
            log.write(f"{path.name} {os.getpid()}\n")
        with contextlib.suppress(FileExistsError):  # submitted before: the engine knows it by its reference
            os.link(self._make("pending", path), path)
        await asyncio.sleep(self.submit_s / 2)

    def _make(self, state: str, path: Path) -> Path:
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(state)
        return part

    async def status(self, job_id: str, attempt: int) -> EngineStatus:
        path = self.folder / self.reference(job_id, attempt)
        state = EngineState(path.read_text()) if path.exists() else EngineState.ABSENT
        return EngineStatus(state, f"the driver is {state.value}")

    async def stop(self, job_id: str, attempt: int) -> None:
        (self.folder / f"{self.reference(job_id, attempt)}.stop").touch()

    async def logs(self, job_id: str, attempt: int) -> str | None:
        return None

    async def check(self) -> str:
        return "file-engine 1"

    async def close(self) -> None: ...


@dataclass
class _Driver:
    ends_at: float
    attempt: int


@dataclass
class DriverHost:
    """The cluster behind ``FileEngine``."""

    folder: Path
    state: StateStore
    shortest_s: float = 0.1
    longest_s: float = 1.5
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    running: dict[str, _Driver] = field(default_factory=dict)
    started: Counter[str] = field(default_factory=Counter)
    """Number of drivers by job."""
    killed: Counter[str] = field(default_factory=Counter)
    """Number of drivers by job that a drill has killed."""
    overlaps: list[str] = field(default_factory=list)
    """Drivers that began while another one of their job ran."""

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def kill_one(self) -> str | None:
        """Kill a driver that runs, as a lost node would; return its job."""
        with self._lock:
            job_id = min(self.running, default=None)
            if job_id is not None:
                self.killed[job_id] += 1
                self._end(job_id)
            return job_id

    def _run(self) -> None:
        while not self._ending.wait(0.01):
            with self._lock:
                for path in sorted(self.folder.glob("job-*.??")):
                    if path.name not in self._seen:
                        self._seen.add(path.name)
                        self._start(path)
                now = time.monotonic()
                for job_id, driver in list(self.running.items()):
                    stop = self.folder / f"{job_id}.{driver.attempt:02d}.stop"
                    canceled = stop.exists() or Ledger(self.state, job_id).is_aborted()
                    if driver.ends_at <= now or canceled:
                        self._finish(job_id, driver, "canceled" if canceled else "succeeded")

    def _start(self, path: Path) -> None:
        job_id, _, attempt = path.name.rpartition(".")
        ledger = Ledger(self.state, job_id)
        assert JobUri.parse(ledger.spec_uri).job_id == job_id
        if ledger.read_summary() is not None:  # as the product's driver does
            _write(path, EngineState.ENDED.value)
            return
        if job_id in self.running:
            self.overlaps.append(path.name)
        self.started[job_id] += 1
        ends_at = time.monotonic() + self.chance.uniform(self.shortest_s, self.longest_s)
        self.running[job_id] = _Driver(ends_at, int(attempt))
        _write(path, EngineState.RUNNING.value)
        ledger.write_progress(
            {
                "format": 1,
                "attempt": int(attempt),
                "phase": "running",
                "updated_at": timestamp_now(),
                "planning_complete": True,
                "eta_s": 1.0,
                "note": None,
                "counts": {"listed": 1, "planned": 1, "done": 0, "bytes_planned": 10, "bytes_read": 0},
                "rates": {"chunks_per_s": 1.0, "bytes_per_s": 1.0},
            }
        )

    def _finish(self, job_id: str, driver: _Driver, state: str) -> None:
        summary: dict[str, Any] = {
            "format": 1,
            "job_id": job_id,
            "state": state,
            "attempt": driver.attempt,
            "epoch": driver.attempt,
            "started_at": timestamp_now(),
            "finished_at": timestamp_now(),
            "error": None,
            "counts": {"listed": 1, "planned": 1, "done": 1},
            "timings": {"total_s": 1.0},
        }
        Ledger(self.state, job_id).write_summary(summary)
        self._end(job_id)

    def _end(self, job_id: str) -> None:
        driver = self.running.pop(job_id)
        _write(self.folder / f"{job_id}.{driver.attempt:02d}", EngineState.ENDED.value)
