"""A process whose event loop stands still for minutes ends, so that its work is done by another one."""

from __future__ import annotations

import asyncio
import faulthandler
from typing import Final

FROZEN_S: Final = 300.0
"""Seconds without a step of the event loop after which its process ends. A callback takes milliseconds; only code that
keeps the interpreter's lock forever, or a process that was suspended, comes near it."""

_STEPS: Final = 10
"""How often in ``FROZEN_S`` the loop shows that it is alive."""


def end_when_frozen(loop: asyncio.AbstractEventLoop, frozen_s: float = FROZEN_S) -> None:
    """End this process, with the tracebacks of its threads on stderr, when a loop stands still. Call it in the loop.

    The timer belongs to the C library: it also runs while a library keeps the interpreter's lock. There is one in a
    process.
    """
    faulthandler.dump_traceback_later(frozen_s, exit=True)
    loop.call_later(frozen_s / _STEPS, end_when_frozen, loop, frozen_s)
