"""Several copies of the service on one PostgreSQL, in trouble: every accepted job runs once, and none goes back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ingestion_engine.services.leadership import HOLD_S
from support.drills import DRILLS
from support.postgres import Postgres
from support.replicas import running_copies

QUICK = ("killed_leader", "frozen_leader", "skewed_clocks", "restarted_database")
"""Drills that `make test` runs once; `make nightly` runs all again and again."""


@pytest.mark.parametrize("name", QUICK)
async def test_no_job_is_lost_doubled_or_set_back(name: str, tmp_path: Path, postgres: Postgres) -> None:
    """Whatever happens to the copies, to their clocks and to the database meanwhile."""
    await _drill(name, name, tmp_path, postgres, hold_s=1.5)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("run", range(5))
@pytest.mark.parametrize("name", list(DRILLS))
async def test_no_job_is_lost_in_any_drill(name: str, run: int, tmp_path: Path, postgres: Postgres) -> None:
    """Again and again, with the product's own lease and other moments each time."""
    await _drill(name, f"{name}-{run}", tmp_path, postgres, hold_s=HOLD_S)


async def _drill(name: str, seed: str, folder: Path, postgres: Postgres, *, hold_s: float) -> None:
    url = postgres.url(postgres.create_database())
    with running_copies(url, folder, hold_s=hold_s) as copies:
        await copies.prepare()
        await DRILLS[name](copies, postgres, random.Random(seed))
        found = await copies.settle()
        assert found.accepted >= 24
        assert (found.lost, found.doubled, found.set_back) == ([], [], [])
