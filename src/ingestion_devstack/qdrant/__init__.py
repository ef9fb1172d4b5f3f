"""A stand-in for Qdrant over the real Qdrant engine. What does not belong: product code."""
