"""Parsing: from the bytes of an object to the text of a document. What does not belong: chunking, I/O to S3."""
