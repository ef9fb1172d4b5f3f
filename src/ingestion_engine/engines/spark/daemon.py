"""The daemon that Spark runs in an executor to fork Python workers (``spark.python.daemon.module``).

Modules imported before the fork are available in every worker: a worker starts its first partition at once, and all
workers of an executor share the memory.
"""

import importlib
from typing import Final

from ingestion_engine.engines.spark.paths import leave_archive

FOR_WORKERS: Final = (
    "ingestion_engine.pipeline.worker",
    "ingestion_engine.adapters.ollama.embedder",
    "ingestion_engine.adapters.qdrant.store",
    "ingestion_engine.adapters.s3.source",
    "ingestion_engine.adapters.s3.state_store",
    "ingestion_engine.adapters.weaviate.store",
)
"""Modules that a partition uses. None starts a thread on import, which a fork would lose; clients do when opened."""


def main() -> None:
    """Fork workers until Spark closes the standard input."""
    leave_archive()
    from pyspark.daemon import manager

    for name in FOR_WORKERS:
        importlib.import_module(name)
    manager()


if __name__ == "__main__":
    main()
