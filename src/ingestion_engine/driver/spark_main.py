"""The file that Spark runs; it calls ``driver.entry``. The image has a copy at ``/opt/ingest/spark_main.py``."""

from ingestion_engine.engines.spark.paths import leave_archive

if __name__ == "__main__":
    leave_archive()
    from ingestion_engine.driver.entry import main

    raise SystemExit(main())
