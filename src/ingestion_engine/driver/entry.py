"""The command line by which every engine starts a driver: a fixed module and the URI of a job.

``python -m ingestion_engine.driver.entry --spec s3://bucket/state/jobs/JOB/spec.json --attempt 1``

Exit status: 0 when the ledger holds the job's summary, also for a failed job; 3 when another attempt owns the job; 1 on
a crash, after which the service starts the next attempt.

No slow imports here, so that Ray, if it is named, starts a worker while the driver imports the rest.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType
from typing import Final

EXIT_SUPERSEDED: Final = 3


def _terminate(number: int, frame: FrameType | None) -> None:
    """Exit at once when the engine stops the driver; the lease expires and the next attempt recovers."""
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(prog="ingestion_engine.driver.entry")
    parser.add_argument("--spec", required=True, help="URI of the job's spec.json.")
    parser.add_argument("--attempt", required=True, type=int, help="Number of the attempt, from 1.")
    parser.add_argument(
        "--engine", choices=["ray"], help="Start a Ray worker at once instead of after reading the spec."
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)

    from ingestion_engine.runtime.settings import load_settings
    from ingestion_engine.runtime.telemetry import configure_logging

    settings = load_settings()
    configure_logging(settings.log_level, json=settings.log_format == "json", stream=sys.stdout, names_job=False)
    warming = []
    if options.engine == "ray":
        from ingestion_engine.engines.ray.start import warm_up

        warming = warm_up(options.spec, settings.ray.task_cpus)

    from ingestion_engine.driver.run import run_driver

    summary = run_driver(options.spec, options.attempt, warming=warming, begun=begun)
    return 0 if summary is not None else EXIT_SUPERSEDED


def _run() -> int:
    """Run the command line as a program of its own."""
    try:
        return main()
    except Exception as error:  # only an invalid setting is handled; its class is imported late, because that is slow
        from ingestion_engine.runtime.settings import SettingsError

        if not isinstance(error, SettingsError):
            raise
        # Without settings there is no way to the ledger: this line, the log's last one, is what the service shows.
        sys.stdout.write(f"The driver cannot start because a setting of this node is invalid: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(_run())
