"""The driver, and one small file per engine: where partitions run. What does not belong: stage logic."""
