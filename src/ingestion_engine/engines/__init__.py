"""Engines: where partitions run. Does not contain planning, retries or stage logic."""
