"""The driver: one attempt of one job, from the lease to the summary.

What does not belong: engines, which run partitions, and stages, which process objects.
"""
