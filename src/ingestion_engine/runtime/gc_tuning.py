"""Tune Python's cycle collector for processes that run for a long time."""

from __future__ import annotations

import gc
from typing import Final

COLLECT_AFTER: Final = (10_000, 20, 20)
"""Thresholds of the cycle collector. The default, 700 new objects, is reached several times per batch of points."""


def freeze_startup_objects(collect_after: tuple[int, int, int] = COLLECT_AFTER) -> None:
    """Exclude all current objects, mainly imported modules, from cycle collection, and set its thresholds. Idempotent.

    Scanning them repeatedly took a fifth of the processor time of a chunk in workers, and caused pauses in the service.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
        gc.set_threshold(*collect_after)
