"""PySpark is imported from the folder of the installation that its archive belongs to, or from the archive."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ingestion_engine.engines.spark.paths import leave_archive


def make_archive(lib: Path) -> str:
    lib.mkdir(parents=True)
    archive = lib / "pyspark.zip"
    archive.touch()
    return str(archive)


def make_package(folder: Path) -> None:
    (folder / "pyspark").mkdir(parents=True, exist_ok=True)
    (folder / "pyspark" / "__init__.py").touch()


def leave(monkeypatch: pytest.MonkeyPatch, *path: str) -> list[str]:
    monkeypatch.setattr(sys, "path", list(path))
    leave_archive()
    return sys.path


def test_a_distribution_has_the_package_beside_its_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Apache's distribution has ``python/lib/pyspark.zip`` and ``python/pyspark``."""
    archive = make_archive(tmp_path / "spark" / "python" / "lib")
    make_package(tmp_path / "spark" / "python")
    assert leave(monkeypatch, "", archive, "rest") == ["", str(tmp_path / "spark" / "python"), "rest"]


def test_the_package_has_the_archive_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyPI's package has ``pyspark/python/lib/pyspark.zip``."""
    make_package(tmp_path)
    archive = make_archive(tmp_path / "pyspark" / "python" / "lib")
    assert leave(monkeypatch, archive, "rest") == [str(tmp_path), "rest"]


def test_another_installation_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PySpark of another installation may have another version than the cluster."""
    archive = make_archive(tmp_path / "spark" / "python" / "lib")
    make_package(tmp_path)
    make_package(tmp_path / "site-packages")
    path = ["", archive, str(tmp_path / "site-packages")]
    assert leave(monkeypatch, *path) == path


def test_paths_that_are_no_archive_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a path without parents."""
    path = ["", "pyspark.zip", "/pyspark.zip", "/a/b.zip"]
    assert leave(monkeypatch, *path) == path
