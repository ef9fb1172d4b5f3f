"""The plan of an attempt: listing, diff, packing, and the plan thread. Does not run partitions."""
