"""Readings of real documents compared with those of other readers; one script per format."""
