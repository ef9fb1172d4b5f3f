"""Server-sent events, as the WHATWG's HTML standard defines them (section 9.2.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?!\Z)")
"""Only these end a line; a text may contain others of Unicode, such as U+2028. After a last CR, an LF may follow."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event with data."""

    data: bytes
    name: str = "message"


class EventReader:
    """Reads events from the bytes of a stream, however they are cut.

    ``last_id`` is the id to send as ``Last-Event-ID`` when the stream is opened again, ``retry_s`` the pause before
    that in seconds, as the server wishes; both are None until the stream has named them.
    """

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._rest = b""
        self._data: list[bytes] = []
        self._name = ""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that end in the next bytes."""
        *lines, self._rest = _LINE_END.split(self._rest + data)
        return [event for line in lines if (event := self._read_line(line)) is not None]

    def _read_line(self, line: bytes) -> Event | None:
        if not line:
            event = Event(b"\n".join(self._data), self._name or "message") if self._data else None
            self._data, self._name = [], ""
            return event
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
            case b"event":
                self._name = value.decode(errors="replace")
            case b"id" if b"\0" not in value:
                self.last_id = value.decode(errors="replace")
            case b"retry" if value.isdigit():
                self.retry_s = int(value) / 1000
        return None
