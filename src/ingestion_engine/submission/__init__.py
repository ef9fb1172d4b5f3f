"""Thin typed clients of the Ray Jobs API and of Kubernetes. What does not belong: decisions."""
