"""The driver: one attempt of one job, from the lease to the summary.

Does not contain engines, which run partitions, or stages, which process objects.
"""
