"""The log tail: the end of the driver's log, kept in the ledger, where it outlives cluster and pod."""

from __future__ import annotations

import logging
from collections import deque

TAIL_CHARS = 256 * 1024
"""Characters of a driver's log that are kept, from its end."""


class LogTail(logging.Handler):
    """Keeps the last lines of the log in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque()
        self._chars = 0
        self._changed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one log record; one that cannot be formatted is reported on standard error, as by other handlers."""
        try:
            line = self.format(record)
        except Exception:  # a log line must never end the work that it describes
            self.handleError(record)
            return
        self._lines.append(line)
        self._chars += len(line) + 1
        while self._chars > TAIL_CHARS and len(self._lines) > 1:
            self._chars -= len(self._lines.popleft()) + 1
        self._changed = True

    def take(self) -> str | None:
        """Return the tail if it has changed since the last call, else None."""
        self.acquire()
        try:
            if not self._changed:
                return None
            self._changed = False
            return "\n".join(self._lines) + "\n"
        finally:
            self.release()
