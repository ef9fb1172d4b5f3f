"""Where Python finds PySpark."""

from __future__ import annotations

import sys
from pathlib import Path


def leave_archive() -> None:
    """Import PySpark from its folder where Spark's own archive of it comes first in ``sys.path``.

    Spark puts ``python/lib/pyspark.zip`` before everything else. It holds sources alone, and Python keeps nothing of
    what it compiles of an archive: each driver and executor spent 1.2 s on it where the folder takes 0.25. The folder
    is that of the same installation: beside the archive in Spark's own distribution, around it in PySpark's package.
    """
    for number, entry in enumerate(sys.path):
        archive = Path(entry)
        python = archive.parent.parent
        for package in (python / "pyspark", python.parent):
            if archive.name == "pyspark.zip" and package.name == "pyspark" and (package / "__init__.py").exists():
                sys.path[number] = str(package.parent)
                break
