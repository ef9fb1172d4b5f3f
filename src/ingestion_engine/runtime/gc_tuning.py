"""The cycle collector of a process that runs for long: kept from what stays."""

from __future__ import annotations

import gc
from typing import Final

COLLECT_AFTER: Final = (10_000, 20, 20)
"""Thresholds of Python's cycle collector. Its own, 700 new objects, are met several times per batch of points."""


def freeze_startup_objects() -> None:
    """Keep the cycle collector from all that is there now: what has been imported stays, and is much. Idempotent.

    Walking it again and again cost a fifth of the processor time of a chunk in workers, and pauses in the service.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
