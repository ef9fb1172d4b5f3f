"""The object table: what is in a collection, over all jobs. What does not belong: planning."""
