"""One reader per document format. What does not belong: format detection, limits."""
