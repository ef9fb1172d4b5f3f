"""Thin typed clients of Ray Jobs and Kubernetes. What does not belong: decisions."""
