"""Logging: one event per line with fields, as text or as JSON. Standard library only.

Use ``get_logger(__name__).info("job admitted", extra={"job_id": id})``: the message is constant and names the event;
values that vary are fields. Fields are never secrets.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from typing import Any, Final, TextIO

from ingestion_engine.runtime.timestamps import format_milliseconds

ROOT: Final = "ingestion_engine"
"""Name of the parent of all of the product's loggers."""

_RESERVED: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""Attributes of every record; any other attribute is a field of the event."""


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; names outside the package become children of ``ingestion_engine``. Pure."""
    return logging.getLogger(name if name.split(".", 1)[0] == ROOT else f"{ROOT}.{name}")


def configure_logging(level: str = "INFO", *, json: bool = False, stream: TextIO | None = None) -> None:
    """Write every event to one stream in one format; calling it again replaces format and level.

    Args:
        level: Lowest level of the product's own loggers; libraries log warnings and errors.
        json: One JSON object per line; otherwise ``time LEVEL logger message field=value``.
        stream: Output stream; None means standard error.

    Raises:
        ValueError: unknown level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())


def event_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields given as ``extra``, in order, without private ones, which Ray adds. Pure."""
    return {name: value for name, value in vars(record).items() if name not in _RESERVED and name[:1] != "_"}


def _timestamp(record: logging.LogRecord) -> str:
    return format_milliseconds(dt.datetime.fromtimestamp(record.created, dt.UTC))


class JsonFormatter(logging.Formatter):
    """One JSON object per event: ``time``, ``level``, ``logger``, ``event``, the fields, and ``exception`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one event on one line; values that are not JSON types become text."""
        line: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **event_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO  services.dispatcher job admitted job_id=… parallelism=4``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one event on one line, followed by the lines of its traceback if any."""
        fields = "".join(f" {name}={_render(value)}" for name, value in event_fields(record).items())
        name = record.name.removeprefix(f"{ROOT}.")
        line = f"{_timestamp(record)} {record.levelname:<7} {name} {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _render(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ' "\n\r=') else text
