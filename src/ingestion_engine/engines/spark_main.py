"""The file that Spark runs as a job's driver; the image has a copy of it at ``/opt/ingest/spark_main.py``."""

from ingestion_engine.engines.entry import main

if __name__ == "__main__":
    raise SystemExit(main())
