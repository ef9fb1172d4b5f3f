"""Logging: one event per line with fields, as text or as JSON. Standard library only.

Use ``get_logger(__name__).info("job admitted", extra={"job_id": id})``: the message is constant and names the event;
values that vary are fields. Fields are never secrets.

What a whole process works on (``set_process_fields``) and what a task or thread works on (``log_fields``) is part of
every line that is written meanwhile, also of those that libraries write.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TextIO

from ingestion_engine.runtime.addresses import show_addresses
from ingestion_engine.runtime.timestamps import format_milliseconds

ROOT: Final = "ingestion_engine"
"""Name of the parent of all of the product's loggers."""

_RESERVED: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""Attributes of every record; any other attribute is a field of the event."""

_NO_FIELDS: Final[Mapping[str, Any]] = MappingProxyType({})
_process_fields: Mapping[str, Any] = _NO_FIELDS
_context_fields: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("log_fields", default=_NO_FIELDS)

_JOB_FIELDS: Final = frozenset({"job_id", "attempt", "trace_id"})
"""Fields that each line of a driver's log would repeat."""

_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Characters that move the cursor, colour or reorder a terminal's text, end lines for some readers, or are no text in
UTF-8: control characters, Unicode's separators of lines and marks of direction, and lone surrogates."""

_KEY_BEGINS: Final = "ingest_"
_KEY: Final = re.compile(rf"({_KEY_BEGINS}[a-z0-9]{{10}}_)[0-9A-Za-z]{{38}}")
"""API keys (``access.keys.form``); all but the id is left out of the log."""


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; names outside the package become children of ``ingestion_engine``. Pure."""
    return logging.getLogger(name if name.split(".", 1)[0] == ROOT else f"{ROOT}.{name}")


def configure_logging(
    level: str = "INFO", *, json: bool = False, stream: TextIO | None = None, names_job: bool = True
) -> None:
    """Write every event, and Python's warnings, to one stream in one format; calling it again replaces both.

    Args:
        level: Lowest level of the product's own loggers; libraries log warnings and errors.
        json: One JSON object per line; otherwise ``time LEVEL logger message field=value``.
        stream: Output stream; None means standard error.
        names_job: False leaves job and attempt out of lines of text, for a log that has only those of one attempt.

    Raises:
        ValueError: unknown level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json else TextFormatter(names_job=names_job))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())
    logging.captureWarnings(True)


def is_configured() -> bool:
    """Return whether this process writes its events anywhere; a worker that an engine has started does not yet."""
    return bool(logging.getLogger().handlers)


def set_process_fields(**fields: Any) -> None:
    """Make these the fields of every event of this process, of all threads, instead of those set before."""
    global _process_fields  # noqa: PLW0603 - of the process, as its handlers are
    _process_fields = MappingProxyType(fields)


@contextlib.contextmanager
def log_fields(**fields: Any) -> Iterator[None]:
    """Add fields to every event of this task or thread inside of the ``with`` block.

    Tasks that are created meanwhile, and calls with ``asyncio.to_thread``, keep the fields until they end.
    """
    token = _context_fields.set(MappingProxyType({**_context_fields.get(), **fields}))
    try:
        yield
    finally:
        _context_fields.reset(token)


def context_without_fields() -> contextvars.Context:
    """Return a copy of the current context without what belongs to one request, for a task that serves more of them.

    That are ``log_fields``, and the right to read addresses of internal systems.
    """
    context = contextvars.copy_context()
    context.run(show_addresses, False)
    context.run(_context_fields.set, _NO_FIELDS)
    return context


def event_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of an event: those of the process and the context, then those given as ``extra``, in order.

    Private ones, which Ray adds, are left out. Call it where the event is written: the context is the caller's.
    """
    given = {name: value for name, value in vars(record).items() if name not in _RESERVED and name[:1] != "_"}
    around = {**_process_fields, **_context_fields.get()}
    return {**{name: value for name, value in around.items() if name not in given}, **given}


def escape_unseen(text: str) -> str:
    """Return a text with its control characters and the like as the escapes of JSON, and no whole API key. Pure."""
    if _KEY_BEGINS in text:  # somebody has sent one as a name or a path
        text = _KEY.sub(r"\1...", text)
    return text if text.isprintable() else _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
        }
        # A field never replaces what tells when, how grave and where: those of an event would then be lost.
        line |= {f"{name}_" if name in line else name: value for name, value in event_fields(record).items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            text = json.dumps(line, ensure_ascii=False, allow_nan=False, default=str)
        except (TypeError, ValueError):  # a number or key that JSON lacks: no collector would read the line
            text = json.dumps({name: _simplify(value) for name, value in line.items()}, ensure_ascii=False)
        return escape_unseen(text)


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO  services.dispatcher job admitted job_id=… parallelism=4``."""

    def __init__(self, *, names_job: bool = True) -> None:
        """Leave job and attempt out unless ``names_job``."""
        super().__init__()
        self._left_out: frozenset[str] = frozenset() if names_job else _JOB_FIELDS

    def format(self, record: logging.LogRecord) -> str:
        """Return one event on one line, followed by the lines of its traceback if any."""
        exception = self.formatException(record.exc_info) if record.exc_info else ""
        return _render_line(
            _timestamp(record),
            record.levelname,
            record.name,
            event=record.getMessage(),
            fields={name: value for name, value in event_fields(record).items() if name not in self._left_out},
            exception=exception,
        )


def _simplify(value: Any) -> str | int | None:
    return value if value is None or isinstance(value, str | int) else str(value)


def make_readable(log: str) -> str:
    """Return the log of a driver with its events as text, in the form of ``TextFormatter(names_job=False)``. Pure.

    Lines that are not events as JSON stay as they are.
    """
    return "".join(map(_make_line_readable, log.splitlines(keepends=True))) if _EVENT in log else log


_EVENT: Final = '{"time": "'
"""Beginning of each event as JSON."""


def _make_line_readable(line: str) -> str:
    if not line.startswith(_EVENT):
        return line
    try:
        event = json.loads(line)
        head = [event.pop(name) for name in ("time", "level", "logger", "event")]
    except (ValueError, KeyError):
        return line
    time, level, logger, text = (str(part) for part in head)
    exception = str(event.pop("exception", ""))
    fields = {name: value for name, value in event.items() if name not in _JOB_FIELDS}
    shown = _render_line(time, level.upper(), logger, event=text, fields=fields, exception=exception)
    return shown + ("\n" if line.endswith("\n") else "")


def _render_line(  # the parts of a line
    time: str, level: str, logger: str, *, event: str, fields: Mapping[str, Any], exception: str
) -> str:
    shown = "".join(f" {name}={_render(value)}" for name, value in fields.items())
    line = escape_unseen(f"{time} {level:<7} {logger.removeprefix(f'{ROOT}.')} {event}{shown}")
    # A traceback keeps its lines; what is in them must not look like the beginning of another event.
    return "\n".join([line, *(escape_unseen(part) for part in exception.split("\n"))]) if exception else line


def _render(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ' "\n\r=') else text
