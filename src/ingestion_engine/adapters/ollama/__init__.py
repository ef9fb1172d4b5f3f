"""Ollama: the embedder adapter. What does not belong: decisions, other adapters."""
