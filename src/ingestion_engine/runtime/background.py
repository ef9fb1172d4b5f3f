"""Background threads that never end silently."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ingestion_engine.runtime.telemetry import get_logger

log = get_logger(__name__)


def start_background(
    work: Callable[[], None], *, name: str, on_failure: Callable[[BaseException], None]
) -> threading.Thread:
    """Start a daemon thread, and return it; an error that ends the thread is logged and reported.

    Python itself only prints such an error, and prints nothing at all for SystemExit: whoever waits for the thread's
    work then waits forever.

    Args:
        work: What the thread does.
        name: Name of the thread, for logs.
        on_failure: Called in the thread with the error that ended ``work``; must not raise.
    """

    def run() -> None:
        try:
            work()
        except BaseException as error:
            try:
                log.exception("background thread failed", extra={"background_thread": name})
            finally:
                on_failure(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
