"""Engines: where partitions run. What does not belong: planning, retries, stage logic."""
