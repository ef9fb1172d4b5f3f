"""Entry of ``python -m ingestion_engine.cli``, the same as ``ingest``."""

from ingestion_engine.cli import main

if __name__ == "__main__":
    main()
