"""Messages of a worker and its parser process: pickled values, whose temporary files travel as descriptors."""

from __future__ import annotations

import io
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from ingestion_engine.pipeline.spool import SpooledBody

_HEADER: Final = struct.Struct("!Q")
"""Length of the pickle in bytes."""
MOST_FILES: Final = 8
"""Descriptors that one message may carry; a document has one file at most, and its request another one."""


def send(connection: socket.socket, value: Any) -> None:
    """Send a value. Raises OSError when the other process has ended.

    Cost: one copy of the value's bytes; none of its temporary files.
    """
    files: list[SpooledBody] = []
    buffer = io.BytesIO()
    _Pickler(buffer, files).dump(value)
    header = _HEADER.pack(buffer.tell())
    if files:
        socket.send_fds(connection, [header], [body.share() for body in files])
    else:
        connection.sendall(header)
    connection.sendall(buffer.getbuffer())


def receive(connection: socket.socket) -> Any:
    """Return the next value. Raises EOFError or OSError when the other process has ended; TimeoutError."""
    header, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, MOST_FILES)
    bodies = [SpooledBody.adopt(descriptor) for descriptor in descriptors]  # closed with their last reference
    header += _read(connection, _HEADER.size - len(header)) if header else b""
    if not header:
        raise EOFError
    (length,) = _HEADER.unpack(header)
    return _Unpickler(io.BytesIO(_read(connection, length)), bodies).load()


def _read(connection: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    left = memoryview(data)
    while left:
        count = connection.recv_into(left)
        if not count:
            raise EOFError
        left = left[count:]
    return data


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, files: list[SpooledBody]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._files = files

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, SpooledBody):
            return None
        self._files.append(value)
        return len(self._files) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, bodies: Sequence[SpooledBody]) -> None:
        super().__init__(file)
        self._bodies = bodies

    def persistent_load(self, number: int) -> SpooledBody:
        return self._bodies[number]
