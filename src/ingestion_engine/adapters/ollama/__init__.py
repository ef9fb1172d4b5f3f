"""Ollama: the embedder. What does not belong: decisions, other adapters."""
