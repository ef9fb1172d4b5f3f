"""``python -m ingestion_engine.cli`` is ``ingest``."""

from ingestion_engine.cli import main

if __name__ == "__main__":
    main()
