"""Chunking: from a document to chunks with exact offsets. What does not belong: formats, embedding."""
