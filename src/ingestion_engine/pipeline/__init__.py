"""The worker and its stages, one file each; the runner holds the only concurrency.

What does not belong: vendor SDKs.
"""
