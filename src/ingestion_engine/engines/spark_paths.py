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
        if archive.name != "pyspark.zip" or len(archive.parents) < 4:
            continue
        for folder in (archive.parents[1], archive.parents[3]):
            package = folder / "pyspark"
            if (package / "__init__.py").exists() and package in (archive.parents[1] / "pyspark", archive.parents[2]):
                sys.path[number] = str(folder)
                break
