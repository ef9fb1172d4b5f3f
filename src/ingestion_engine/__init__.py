"""Embed every object under an S3 prefix into Qdrant and Weaviate, exactly once, on Ray or Spark."""

__version__ = "0.1.0"
