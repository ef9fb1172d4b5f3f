"""Files of the stack that only their owner can read: they have documents, credentials and logs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO, Final

UMASK: Final = 0o077
"""Of every server of the stack, so that what it creates is its user's alone."""


def make_private(directory: Path) -> None:
    """Create a directory that only its owner can enter, or take the others' rights from one that exists.

    What is below it cannot be reached by others then, whatever its own mode is. A directory of another user, such as a
    mounted volume, stays as it is.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        if directory.stat().st_mode & 0o077:
            directory.chmod(0o700)


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to it; only its owner can read it, also when it exists with another mode."""
    make_private(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")
