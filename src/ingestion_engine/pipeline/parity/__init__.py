"""Parity: compare and repair one partition. What does not belong: planning which objects to compare."""
