"""Run a command and measure it from outside: peak resident memory and processor time."""

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
"""Interval between two readings. The kernel keeps the peak: only one in the last moment of a process can be missed."""

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Measured:
    """Resource usage of a process."""

    peak_bytes: int
    """Peak of the resident memory (``VmHWM``)."""
    cpu_s: float
    """User and system time of all threads, and of children that the process waited for."""
    wall_s: float


def peak_bytes(pid: int | None = None) -> int:
    """Return the peak resident memory so far of a running process, by default this one. Linux only."""
    found = _PEAK.search(Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace"))
    return int(found[1]) * 1024 if found else 0


def run_measured(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, stdout: IO[bytes] | int = subprocess.DEVNULL
) -> Measured:
    """Run a command to its end; its output is discarded unless a file is given.

    Raises:
        RuntimeError: The command failed; the message has the end of its output.
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
