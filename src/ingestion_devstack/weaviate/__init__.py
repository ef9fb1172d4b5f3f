"""A stand-in for Weaviate over SQLite and exact vector search. Product code does not belong here."""
