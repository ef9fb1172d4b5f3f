"""The demo, as a new user runs it: it checks itself at every step and exits 0 only when all checks pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ingestion_devstack.stack.programs import PROGRAMS


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["ray", "spark", "both"])
def test_the_demo_passes_its_checks(engine: str, tmp_path: Path) -> None:
    """Upload, embed, embed nothing again, compare the stores, search: on each engine, and on both together."""
    command = [sys.executable, "-m", "ingestion_engine.cli", "demo", "--engine", engine]
    env = {**os.environ, **{f"INGEST_STACK__{name.upper()}": "off" for name in PROGRAMS}}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All checks passed" in done.stdout + done.stderr
