"""Conventions of the code base that no linter checks."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = _ROOT / "src" / "ingestion_engine"
_SOURCES = sorted(path for path in _PACKAGE.rglob("*.py") if "migrations" not in path.parts)
_VENDORS = {
    "ray",
    "pyspark",
    "botocore",
    "obstore",
    "weaviate_client",
    "qdrant_client",
    "pypdfium2",
    "sqlalchemy",
}
_VAGUE = {"utils", "util", "helpers", "base", "manager", "common", "misc"}


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(_PACKAGE)) for path in paths]


@pytest.mark.parametrize("path", _SOURCES, ids=names(_SOURCES))
def test_module_says_what_it_is(path: Path) -> None:
    """Every module has a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


@pytest.mark.parametrize("package", sorted(path for path in _PACKAGE.iterdir() if (path / "__init__.py").exists()))
def test_package_says_what_does_not_belong(package: Path) -> None:
    """A package docstring also names what does not belong in it."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert "does not belong" in docstring


def test_no_vague_or_shadowing_module_names() -> None:
    """No module is called utils or the like, and none has the name of a package it could shadow."""
    stems = {path.stem for path in _SOURCES}
    assert not stems & (_VAGUE | _VENDORS)


def test_environment_is_read_in_settings_only() -> None:
    """Only the settings read the environment; the client has one variable of its own, its key, and the embedded stack
    hands its environment on.
    """
    readers = {
        str(path.relative_to(_PACKAGE))
        for path in _SOURCES
        if "devstack" not in path.parts and re.search(r"\bos\.(environ|getenv)\b", path.read_text(encoding="utf-8"))
    }
    assert readers <= {"runtime/settings.py", "cli/output.py"}


def test_lock_has_hashes_and_no_addresses() -> None:
    """The lock pins every package exactly, with hashes, and says nothing about where to get it."""
    text = (_ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
    assert "://" not in text
    assert not re.search(r"^\s*-(i|-index-url|-extra-index-url|-find-links)\b", text, re.MULTILINE)


def test_lock_covers_every_dependency() -> None:
    """Every requirement of both distributions, of any extra, is locked."""
    required, own = [], set()
    for file in (_ROOT / "pyproject.toml", _ROOT / "src" / "ingestion_devstack" / "pyproject.toml"):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        required += [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
        own.add(project["name"])
    wanted = {re.split(r"[\[<>=!~;\s]", line)[0].lower().replace("_", "-") for line in required} - own
    locked = set(
        re.findall(r"^([a-z0-9._-]+)==", (_ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert wanted <= locked


def test_every_relative_link_in_the_documents_leads_somewhere() -> None:
    """No document links to a file that is not there."""
    broken = []
    for page in [*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_settings_are_documented() -> None:
    """The table of settings is what `make docs` writes."""
    script = runpy.run_path(str(_ROOT / "scripts" / "settings_table.py"))
    text = (_ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert script["render_page"](text) == text, "run `make docs`"


def test_the_service_alone_needs_no_engine_and_no_store_client() -> None:
    """Importing the service loads nothing that only some deployments have."""
    code = "import sys, ingestion_engine.server.app; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {
        "ray",
        "pyspark",
        "kubernetes",
        "kubeflow_spark_api",
        "weaviate",
        "pypdfium2",
        "pyarrow",
        "botocore",
    }
    assert heavy.isdisjoint(loaded)


def test_the_worker_starts_without_heavy_imports() -> None:
    """Parsers and clients are loaded when they are first used, not with the entry."""
    code = "import sys, ingestion_engine.driver.run, ingestion_engine.driver.driver, ingestion_engine.pipeline.worker; "
    code += "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {
        "ray",
        "pyspark",
        "kubernetes",
        "weaviate",
        "pypdfium2",
        "pyarrow",
        "botocore",
        "sqlalchemy",
        "fastapi",
    }
    assert heavy.isdisjoint(loaded)


def test_what_starts_an_engine_imports_nothing_that_takes_long() -> None:
    """The entry asks for it first; the driver's own imports, half a second, come meanwhile."""
    code = "import sys, ingestion_engine.driver.entry, ingestion_engine.engines.ray.start, "
    code += "ingestion_engine.engines.spark.start; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {
        "numpy",
        "pydantic",
        "orjson",
        "asyncio",
        "ingestion_engine.domain.spec",
        "ingestion_engine.pipeline.worker",
    }
    assert heavy.isdisjoint(loaded)


def test_what_spark_forks_from_has_no_thread_of_ours() -> None:
    """A fork takes along the thread that forks and no other: one of gRPC's or obstore's would be missing in a worker.

    Numpy's library for linear algebra has threads of its own, and restores itself after a fork; here it uses none.
    """
    code = (
        "import importlib, os; from ingestion_engine.engines.spark.daemon import FOR_WORKERS; "
        "[importlib.import_module(name) for name in FOR_WORKERS]; print(len(os.listdir('/proc/self/task')))"
    )
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "1"


def test_the_weaviate_adapter_leaves_the_client_alone() -> None:
    """It imports the messages without the client, and who wants the client afterwards gets it whole, with the same."""
    program = """
import sys
from ingestion_engine.adapters.weaviate.store import batch_pb2
assert not {"weaviate", "weaviate.client", "weaviate.exceptions", "httpx"} & set(sys.modules)
import weaviate
from weaviate.proto.v1 import batch_pb2 as again
from weaviate.exceptions import WeaviateProtobufIncompatibility
assert weaviate.connect_to_custom and again is batch_pb2 and WeaviateProtobufIncompatibility is not ImportError
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
