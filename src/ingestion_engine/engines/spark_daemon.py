"""What Spark runs in an executor to fork Python workers from (``spark.python.daemon.module``).

What is imported before the fork is there in each of them: a worker takes up its first partition at once, and all of
an executor share the memory. Importing the adapters starts no thread; that begins with the first client.
"""

from ingestion_engine.engines.spark_paths import leave_archive


def main() -> None:
    """Serve until Spark closes the standard input."""
    leave_archive()
    from pyspark.daemon import manager

    import ingestion_engine.pipeline.worker  # noqa: F401 - not for use here: forked workers have it, and the next ones
    from ingestion_engine.adapters import ollama, qdrant, s3, s3_state, weaviate  # noqa: F401

    manager()


if __name__ == "__main__":
    main()
