"""Several copies of the service on one PostgreSQL, in trouble: every accepted job runs once, and none goes back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from support.drills import DRILLS
from support.postgres import Postgres
from support.replicas import running_copies

QUICK = ("killed_leader", "frozen_leader", "skewed_clocks", "restarted_database")
"""Drills that `make test` runs once; `make nightly` runs all again and again."""


@pytest.mark.parametrize("name", QUICK)
async def test_no_job_is_lost_doubled_or_set_back(name: str, tmp_path: Path, postgres: Postgres) -> None:
    """Whatever happens to the copies, to their clocks and to the database meanwhile."""
    url = postgres.url(postgres.create_database())
    with running_copies(url, tmp_path) as copies:
        await copies.prepare()
        await DRILLS[name](copies, postgres, random.Random(name))
        found = await copies.settle()
        assert found.accepted >= 24
        assert (found.lost, found.doubled, found.set_back) == ([], [], [])
