"""Runs a command and measures it from outside: peak resident memory and processor time."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LOOK_EVERY_S = 0.01
"""The kernel keeps the peak itself; only a peak in the last moment of a process can be missed."""

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a process used."""

    peak_bytes: int
    """Peak of its resident memory (``VmHWM``)."""
    cpu_s: float
    """User and system time, all threads, and of children that it waited for."""
    wall_s: float


def peak_bytes(pid: int | None = None) -> int:
    """Peak resident memory of a running process so far; of this one by default. Linux only."""
    found = _PEAK.search(Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace"))
    return int(found[1]) * 1024 if found else 0


def run_measured(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, stdout: IO[bytes] | int = subprocess.DEVNULL
) -> Measured:
    """Run a command to its end, its output thrown away unless it has a place to go.

    Raises:
        RuntimeError: it failed; with the end of its output.
    """
    started = time.perf_counter()
    peak = 0
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, env=env, stdout=stdout, stderr=errors) as process,
    ):
        while True:
            peak = max(peak, peak_bytes(process.pid))
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(LOOK_EVERY_S)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{command[1:4]} failed: {errors.read()[-2000:].decode(errors='replace')}")
    return Measured(peak, usage.ru_utime + usage.ru_stime, time.perf_counter() - started)
