"""Finds Java and Spark on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SUPPORTED: Final = (17, 21)
"""Java releases that Spark 4 supports, in order of preference (https://spark.apache.org/docs/latest/)."""
_JAVA_VERSION: Final = re.compile(r'^JAVA_VERSION="(\d+)', re.MULTILINE)
_SYSTEM_HOMES: Final = Path("/usr/lib/jvm")
_PACKAGE: Final = "openjdk-17-jre-headless"


class SparkMissingError(Exception):
    """Spark cannot run here; the message names the package to install."""


def find_java(only: Path | None = None) -> Path:
    """Return the home of a Java that runs Spark 4: JAVA_HOME, else one in /usr/lib/jvm, else the one on the PATH.

    Args:
        only: The only home to check; None means all of these.

    Raises:
        SparkMissingError: none was found.
    """
    homes = [only] if only is not None else list(_candidates())
    by_release = {release: home for home in reversed(homes) if (release := _release(home)) in SUPPORTED}
    inherited = os.environ.get("JAVA_HOME")
    if only is None and inherited and Path(inherited) in by_release.values():
        return Path(inherited)
    for release in SUPPORTED:
        if release in by_release:
            return by_release[release]
    checked = ", ".join(str(home) for home in homes) or "no directory"
    raise SparkMissingError(
        f"Spark needs Java 17 or 21, and none was found (checked: {checked}). "
        f"Install the Debian package {_PACKAGE}, or set JAVA_HOME."
    )


def _candidates() -> Iterator[Path]:
    inherited = os.environ.get("JAVA_HOME")
    if inherited:
        yield Path(inherited)
    if _SYSTEM_HOMES.is_dir():
        yield from sorted(path for path in _SYSTEM_HOMES.iterdir() if path.is_dir())
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path).resolve().parent.parent


def _release(home: Path) -> int | None:
    """Return the feature release of a Java home from its file `release`; None if it holds no runnable Java."""
    if not os.access(home / "bin" / "java", os.X_OK) or not (home / "release").is_file():
        return None
    found = _JAVA_VERSION.search((home / "release").read_text("utf-8", errors="replace"))
    return int(found[1]) if found else None


def find_spark() -> Path:
    """Return SPARK_HOME, which is inside the installed pyspark package.

    Raises:
        SparkMissingError: pyspark is not installed.
    """
    spec = importlib.util.find_spec("pyspark")
    home = Path(spec.origin).parent if spec is not None and spec.origin else None
    if home is None or not (home / "bin" / "spark-submit").is_file():
        raise SparkMissingError("PySpark is not installed. Install ingestion-engine[spark].")
    return home
