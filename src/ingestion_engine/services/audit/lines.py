"""Entries of the audit log as JSON lines, for a collector: in a file, or among the lines of the log."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ingestion_engine.runtime.telemetry import escape_unseen, get_logger

_log = get_logger(__name__)

LOGGER: Final = "audit"
"""Name of the logger that has the entries when there is no file."""


class AuditLines:
    """Writes a line per entry. Thread-safe; never raises.

    The file is opened again when another one has its name (``logrotate``), and has mode 0600. A named pipe that nobody
    reads, or that is full, loses lines instead of holding up its writer. Without a file, entries are lines of the log,
    whatever its level.

    Args:
        path: The file; None means the log.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: int | None = None
        self._failing = False
        self.lost = 0
        """Number of lines that could not be written."""
        self._logger = get_logger(LOGGER)
        if path is None:
            self._logger.setLevel(logging.INFO)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one entry."""
        if self._path is None:
            self._logger.info("audit", extra=dict(line))
            return
        text = escape_unseen(json.dumps(line, ensure_ascii=False, default=str)) + "\n"
        try:
            with self._lock:
                self._append(self._path, text.encode())
        except OSError as error:
            self.lost += 1
            if not self._failing:
                _log.error("audit file not written", extra={"path": str(self._path), "error": error.strerror})
            self._failing = True
            self.close()
        else:
            if self._failing:
                _log.warning("audit file written again", extra={"lost": self.lost})
            self._failing = False

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, path: Path, text: bytes) -> None:
        if self._file is not None and not _is_at(self._file, path):
            self.close()
        if self._file is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        while text:  # one write in practice; a full disk may take a part
            text = text[os.write(self._file, text) :]


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether a path is the name of an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
