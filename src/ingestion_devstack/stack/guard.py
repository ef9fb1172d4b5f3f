"""Runs one command and leaves no process of it behind, whichever process dies first.

``python -m ingestion_devstack.stack.guard [--grace SECONDS] -- COMMAND...`` with a pipe as standard input: the command
runs until the pipe closes, until SIGTERM, or until it ends by itself. The death of the supervisor closes the pipe too,
even after SIGKILL. On Linux the guard is a subreaper: a descendant that leaves its group and session (Ray's workers do)
is still found and ended.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""Numbers of ``prctl(2)``, from the kernel's ``linux/prctl.h``; part of its stable interface."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code (128 + n when signal n ended it)."""
    parser = argparse.ArgumentParser(prog="guard")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wakeup = _wake_on_signals()
    child = subprocess.Popen(
        arguments.command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - the guard has one thread
    )
    _wait_for_end(child, wakeup)
    if child.poll() is None:
        child.terminate()
        _wait_until_gone(child, arguments.grace)
    _end_descendants(grace_s=0.0 if child.poll() is None else 2.0)
    _reap_adopted(child.pid)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _wake_on_signals() -> int:
    """Make SIGTERM, SIGINT and SIGCHLD readable as bytes; return the descriptor that yields them."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def ignore(_number: int, _frame: FrameType | None) -> None:
        return None

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, ignore)
    return reading


def _wait_for_end(child: subprocess.Popen[bytes], wakeup: int) -> None:
    """Return when the child ended, the supervisor's pipe closed, or SIGTERM or SIGINT arrived."""
    while child.poll() is None:
        readable, _, _ = select.select([sys.stdin.fileno(), wakeup], [], [], 5.0)
        if sys.stdin.fileno() in readable and not os.read(sys.stdin.fileno(), 1024):
            return
        if wakeup in readable and set(os.read(wakeup, 1024)) & {signal.SIGTERM, signal.SIGINT}:
            return
        _reap_adopted(child.pid)


def _wait_until_gone(child: subprocess.Popen[bytes], grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def _reap_adopted(own_child: int) -> None:
    """Collect the exit codes of dead descendants that the kernel assigned to this process."""
    for process in psutil.Process().children():
        if process.pid != own_child and _is_zombie(process):
            try:
                os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                continue


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end_descendants(*, grace_s: float) -> None:
    """Terminate, then kill, every descendant; repeated because a dying process may have started another."""
    deadline = time.monotonic() + grace_s
    _signal_all(signal.SIGTERM)
    while living := _living_descendants():
        if time.monotonic() >= deadline:
            for process in living:
                _send(process, signal.SIGKILL)
        time.sleep(0.05)


def _living_descendants() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if not _is_zombie(process)]


def _signal_all(number: signal.Signals) -> None:
    for process in _living_descendants():
        _send(process, number)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return


if __name__ == "__main__":
    sys.exit(main())
