"""What Spark runs in an executor to fork Python workers from (``spark.python.daemon.module``).

What is imported before the fork is there in each of them: a worker takes up its first partition at once, and all of
an executor share the memory.
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
"""What a partition uses. None of them starts a thread when it is imported, which a fork would lose; clients do."""


def main() -> None:
    """Serve until Spark closes the standard input."""
    leave_archive()
    from pyspark.daemon import manager

    for name in FOR_WORKERS:
        importlib.import_module(name)
    manager()


if __name__ == "__main__":
    main()
