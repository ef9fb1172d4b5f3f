"""The import contracts hold, and each of them notices a planted violation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]

_PLANTS = [
    ("Imports go downward only", "domain/ids.py", "import ingestion_engine.runtime.settings"),
    ("Imports go downward only", "services/jobs.py", "import ingestion_engine.api.app"),
    ("Imports go downward only", "api/app.py", "import ingestion_engine.devstack.stack"),
    ("Imports go downward only", "engines/local.py", "import ingestion_engine.services.jobs"),
    ("Imports go downward only", "state/lease.py", "import ingestion_engine.adapters.s3"),
    ("The service never imports what runs on the cluster", "api/app.py", "import ingestion_engine.pipeline.worker"),
    (
        "The service never imports what runs on the cluster",
        "services/jobs.py",
        "import ingestion_engine.engines.driver",
    ),
    ("Stages do not know each other", "pipeline/chunk.py", "import ingestion_engine.pipeline.upsert"),
    ("Engines do not know each other", "engines/local.py", "import ingestion_engine.engines.ray_engine"),
    ("Adapters of different vendors do not know", "adapters/qdrant.py", "import ingestion_engine.adapters.weaviate"),
    ("Every third-party package stays in its homes", "engines/driver.py", "import botocore"),
    ("Every third-party package stays in its homes", "pipeline/worker.py", "import ray"),
    ("Every third-party package stays in its homes", "services/jobs.py", "import weaviate"),
    ("Every third-party package stays in its homes", "state/ledger.py", "import pyarrow"),
    ("Every third-party package stays in its homes", "services/search.py", "import fastapi"),
    ("Every third-party package stays in its homes", "pipeline/runner.py", "import requests"),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what lint-imports reads."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "src", tmp_path / "src", ignore=ignore)
    shutil.copytree(_ROOT / "tests" / "architecture", tmp_path / "tests" / "architecture", ignore=ignore)
    shutil.copy(_ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_contracts_hold(checkout: Path) -> None:
    """The repository as it is keeps every contract."""
    result = lint_imports(checkout)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("contract", "file", "line"), _PLANTS, ids=[f"{file}-{line}" for _, file, line in _PLANTS])
def test_planted_violation_fails(checkout: Path, contract: str, file: str, line: str) -> None:
    """One forbidden import breaks the contract that is about it."""
    path = checkout / "src" / "ingestion_engine" / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    result = lint_imports(checkout)
    broken = [text for text in result.stdout.splitlines() if " BROKEN" in text]
    assert result.returncode == 1, result.stdout
    assert any(text.startswith(contract) for text in broken), result.stdout
