"""Counts the lines of Python that a call executes: unlike seconds, they do not depend on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any


def count_lines(work: Callable[[], object], *modules: ModuleType) -> int:
    """Return how many lines of these modules a call executes in its own thread; its exceptions are raised."""
    files = {module.__file__ for module in modules}
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        lines += event == "line"
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(former)
    return lines
