"""The worker and its stages, one file each; only the runner decides about concurrency.

What does not belong: vendor SDKs.
"""
