"""Technique without domain: settings, retry, limits, telemetry. What does not belong: words of the product."""
