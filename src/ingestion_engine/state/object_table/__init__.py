"""The object table: all objects of a collection, over all jobs. What does not belong: planning."""
