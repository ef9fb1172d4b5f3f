"""The place from which Python imports PySpark."""

from __future__ import annotations

import sys
from pathlib import Path


def leave_archive() -> None:
    """Import PySpark from its folder where Spark's own archive of it comes first in ``sys.path``.

    Spark puts ``python/lib/pyspark.zip`` before everything else. It contains only sources, and Python does not cache
    what it compiles from an archive: importing it takes each driver and executor 1.2 s, the folder 0.25 s. The folder
    belongs to the same installation: beside the archive in Spark's own distribution, around it in the PySpark package.
    """
    for number, entry in enumerate(sys.path):
        archive = Path(entry)
        python = archive.parent.parent
        for package in (python / "pyspark", python.parent):
            if archive.name == "pyspark.zip" and package.name == "pyspark" and (package / "__init__.py").exists():
                sys.path[number] = str(package.parent)
                break
