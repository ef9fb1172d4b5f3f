"""A stand-in for Weaviate over SQLite and exact vector search. What does not belong: product code."""
