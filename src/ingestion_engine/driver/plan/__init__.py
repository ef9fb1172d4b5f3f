"""The plan of an attempt: listing, diff, packing, and the plan thread. What does not belong: running partitions."""
