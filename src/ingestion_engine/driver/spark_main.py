"""The main file that Spark runs as a job's driver; the image has a copy at ``/opt/ingest/spark_main.py``."""

from ingestion_engine.engines.spark.paths import leave_archive

if __name__ == "__main__":
    leave_archive()
    from ingestion_engine.driver.entry import main

    raise SystemExit(main())
