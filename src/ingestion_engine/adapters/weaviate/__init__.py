"""Weaviate: a vector store adapter. What does not belong: decisions, other adapters."""
