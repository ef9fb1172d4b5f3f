"""Parsing: the bytes of an object become the text of a document. What does not belong: chunking, S3 requests."""
