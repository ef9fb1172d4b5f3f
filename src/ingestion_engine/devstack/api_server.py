"""The product's HTTP service as a process of the embedded stack; settings come from the environment."""

from __future__ import annotations

import sys

import uvicorn

from ingestion_engine.api.app import create_app
from ingestion_engine.runtime.settings import SettingsError, load_settings
from ingestion_engine.runtime.telemetry import configure_logging

_STOP_S = 5
"""Streams of events would keep a stopping server up for ever."""


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    try:
        settings = load_settings()
        app = create_app(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging(settings.log_level)
    uvicorn.run(
        app,
        host=settings.api.host,
        port=settings.api.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_STOP_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
