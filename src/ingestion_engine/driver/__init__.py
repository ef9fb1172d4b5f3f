"""The driver: one attempt of one job, from the lease to the summary.

What does not belong: where partitions run, stage logic.
"""
