"""The embedded stack for a laptop and for tests. What does not belong: anything the product itself needs."""
