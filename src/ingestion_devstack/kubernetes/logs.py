"""Logs of pods, whole, by their tail, or followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ingestion_devstack.kubernetes.errors import bad_request, method_not_allowed, not_found
from ingestion_devstack.kubernetes.http import Target, is_true, read_number
from ingestion_devstack.kubernetes.kubelet import log_path
from ingestion_devstack.kubernetes.store import Key, ObjectStore

_BLOCK: Final = 64 * 1024
_LOOK_S: Final = 0.2
"""How often a followed log is looked at."""


class LogApi:
    """Serves `pods/NAME/log`."""

    def __init__(self, store: ObjectStore, data_dir: Path) -> None:
        self._store = store
        self._data_dir = data_dir

    async def serve(self, request: Request, target: Target) -> Response:
        """Answer one request for a log.

        Raises:
            ApiError: 404 no such pod; 400 unknown container, one that has not started, or a parameter not served here.
        """
        if request.method != "GET":
            raise method_not_allowed()
        pod, query = self._store.get(target.key), request.query_params
        if pod is None:
            raise not_found(target.resource, target.name or "")
        unknown = {"timestamps", "sinceSeconds", "sinceTime", "stream"} & {name for name in query if query[name]}
        if any(query[name].lower() != "false" for name in unknown):
            raise bad_request(f"the stand-in serves no {min(unknown)} of logs")
        container = pod["status"]["containerStatuses"][0]
        name = query.get("container") or container["name"]
        if name != container["name"]:
            raise bad_request(f"container {name} is not valid for pod {target.name}")
        if is_true(query, "previous"):
            raise bad_request(f'previous terminated container "{name}" in pod "{target.name}" not found')
        waiting: dict[str, Any] | None = container["state"].get("waiting")
        if waiting:
            message = f'container "{name}" in pod "{target.name}" is waiting to start: {waiting["reason"]}'
            raise bad_request(message)
        path, limit = log_path(self._data_dir, pod), read_number(query, "limitBytes")
        start = _tail_start(path, read_number(query, "tailLines"))
        follow = target.key if is_true(query, "follow") else None
        return StreamingResponse(
            self._stream(path, start, limit, follow, pod["metadata"]["uid"]), media_type="text/plain"
        )

    async def _stream(
        self, path: Path, start: int, limit: int | None, follow: Key | None, uid: str
    ) -> AsyncIterator[bytes]:
        left = limit
        while True:
            # Whether it ended is asked before reading, so that what it wrote last is read.
            ended = follow is None or self._has_ended(follow, uid)
            while (block := _read_block(path, start)) and left != 0:
                block = block if left is None else block[:left]
                left = None if left is None else left - len(block)
                start += len(block)
                yield block
            if ended or left == 0 or self._store.ending:
                return
            await asyncio.sleep(_LOOK_S)

    def _has_ended(self, key: Key, uid: str) -> bool:
        pod = self._store.get(key)
        return pod is None or pod["metadata"]["uid"] != uid or pod["status"]["phase"] in ("Succeeded", "Failed")


def _read_block(path: Path, start: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(_BLOCK)


def _tail_start(path: Path, lines: int | None) -> int:
    """The offset where the last `lines` lines begin; reads from the end, one block at a time."""
    if lines is None or not path.exists():
        return 0
    with path.open("rb") as file:
        end = position = file.seek(0, 2)
        if lines == 0 or end == 0:
            return end
        file.seek(end - 1)
        wanted = lines + 1 if file.read(1) == b"\n" else lines  # a final newline ends a line, it does not begin one
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            block = file.read(size)
            for index in range(len(block) - 1, -1, -1):
                if block[index] == 0x0A:
                    wanted -= 1
                    if wanted == 0:
                        return position + index + 1
    return 0
