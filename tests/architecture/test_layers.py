"""The import contracts hold, and each of them reports a planted violation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_DOWNWARD = "Imports go downward only"
_SERVICE = "The service never imports what runs on the cluster"
_GATEWAY = "The gateway knows Ollama, not jobs"
_STACK = "The product does not know the embedded stack"
_HOMES = "Every third-party package stays in its homes"

_PLANTS = [
    (_DOWNWARD, "domain.ids", "ingestion_engine.runtime.settings"),
    (_DOWNWARD, "services.jobs", "ingestion_engine.server.app"),
    (_DOWNWARD, "driver.rounds", "ingestion_engine.services.search"),
    (_DOWNWARD, "engines.local", "ingestion_engine.driver.rounds"),
    (_DOWNWARD, "state.lease", "ingestion_engine.adapters.local_files"),
    ("Imports of the embedded stack go downward only", "qdrant.server", "ingestion_devstack.stack.guard"),
    (_STACK, "server.app", "ingestion_devstack.stack.guard"),
    (_SERVICE, "api.metrics", "ingestion_engine.pipeline.worker"),
    (_SERVICE, "services.specs", "ingestion_engine.driver.driver"),
    (_GATEWAY, "gateway", "ingestion_engine.services.jobs"),
    ("Engines only run partitions", "engines.slots", "ingestion_engine.state.ledger"),
    ("Stages do not know each other", "pipeline.chunking.chunk", "ingestion_engine.pipeline.upsert"),
    ("Engines do not know each other", "engines.local", "ingestion_engine.engines.ray.engine"),
    (
        "Adapters of different vendors do not know each other",
        "adapters.qdrant.store",
        "ingestion_engine.adapters.weaviate.store",
    ),
    ("Routes do not know each other", "api.routes.operations", "ingestion_engine.api.routes.jobs"),
    (_HOMES, "driver.driver", "botocore"),
    (_HOMES, "pipeline.worker", "ray"),
    (_HOMES, "services.jobs", "weaviate"),
    (_HOMES, "state.ledger", "pyarrow"),
    (_HOMES, "services.search", "fastapi"),
    (_HOMES, "pipeline.runner", "requests"),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What lint-imports reports of a copy of the tree that holds every planted violation, by contract."""
    checkout = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "src", checkout / "src", ignore=ignore)
    shutil.copytree(_ROOT / "tests" / "architecture", checkout / "tests" / "architecture", ignore=ignore)
    shutil.copy(_ROOT / "pyproject.toml", checkout)
    for _, importer, imported in _PLANTS:
        with (checkout / "src" / _path(importer)).open("a", encoding="utf-8") as file:
            file.write(f"\nimport {imported}\n")
    result = lint_imports(checkout)
    assert result.returncode == 1, result.stdout
    sections = re.split(r"^(.+)\n-+\n", result.stdout.partition("Broken contracts")[2], flags=re.MULTILINE)
    return dict(zip(sections[1::2], sections[2::2], strict=True))


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


def _package(importer: str) -> str:
    return "ingestion_devstack" if importer == "qdrant.server" else "ingestion_engine"


def _path(importer: str) -> str:
    path = f"{_package(importer)}/{importer.replace('.', '/')}"
    return f"{path}/__init__.py" if (_ROOT / "src" / path).is_dir() else f"{path}.py"


def test_contracts_hold() -> None:
    """The repository as it is keeps every contract."""
    result = lint_imports(_ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("contract", "importer", "imported"), _PLANTS, ids=[f"{importer}-{name}" for _, importer, name in _PLANTS]
)
def test_planted_violation_is_reported(broken: dict[str, str], contract: str, importer: str, imported: str) -> None:
    """One forbidden import is named in the report of the contract that forbids it."""
    arrow = "imports" if contract == _HOMES else "->"
    name = f"{_package(importer)}.{importer}"
    assert f"{name} {arrow} {imported}" in broken[contract], broken[contract]
