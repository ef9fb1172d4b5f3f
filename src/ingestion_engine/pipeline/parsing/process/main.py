"""The parser process: calls the functions that its worker names, one after another, until the worker ends.

It parses hostile input: it inherits no secrets, writes nothing, and ends with its worker. A call that the worker has
given up on, or whose worker has died, ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import socket
from pathlib import Path
from typing import Any, Final

from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.pipeline.parsing import large, parse  # noqa: F401 - imported before the first document arrives
from ingestion_engine.pipeline.parsing.process.messages import receive, send

ORPHAN_S: Final = 5.0
"""Seconds after the time limit of a call at which the process ends by itself, also in a library that never returns: its
worker, which would have killed it, is dead."""

_STATUS: Final = Path("/proc/self/status")


def main(descriptor: int) -> None:
    """Serve calls on a Unix socket.

    The first message is the memory in use, in bytes. A call is ``(function, arguments, timeout_s)``, and its answer
    ``(result, error, peak of the memory in bytes)``.
    """
    with socket.socket(fileno=descriptor) as connection:
        try:
            send(connection, _peak_bytes())
            while True:
                function, arguments, timeout_s = receive(connection)
                faulthandler.dump_traceback_later(timeout_s + ORPHAN_S, exit=True)
                answer = (*_call(function, arguments), _peak_bytes())
                del arguments
                faulthandler.cancel_dump_traceback_later()
                send(connection, answer)
                del answer
        except (EOFError, OSError):
            return


def _call(function: Any, arguments: Any) -> tuple[Any, Exception | None]:
    try:
        return function(*arguments), None
    except (IngestionError, MemoryError) as error:
        return None, error.with_traceback(None)
    except Exception as error:  # a reader receives arbitrary bytes
        # The exception may not be picklable; what it says is enough for the log.
        return None, RuntimeError(f"{type(error).__name__}: {error}")


def _peak_bytes() -> int:
    """Return the most memory that this program has had, in bytes; 0 where the system does not tell.

    Not ``ru_maxrss``, which begins with the memory of the worker that started the process.
    """
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
