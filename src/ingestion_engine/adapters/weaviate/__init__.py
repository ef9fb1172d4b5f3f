"""Weaviate: a vector store. What does not belong: decisions, other adapters."""
