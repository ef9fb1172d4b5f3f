"""Technical building blocks: settings, retry, limits, telemetry, time. What does not belong: terms of the product."""
