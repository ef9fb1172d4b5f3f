"""A StateStore whose k-th write ends the process or loses its answer, around any other StateStore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.domain.ports import StateStore, Stored


class Crash(BaseException):
    """The process ends here."""


@dataclass
class FaultyStore:
    """Passes everything on; write number ``fail_at`` (from 1) fails before or after it was applied, later ones do not.

    ``lost_answer`` raises TransientError as a client sees it; otherwise the process ends.
    """

    inner: StateStore
    fail_at: int = 0
    after: bool = False
    lost_answer: bool = False
    away: bool = False
    writes: int = 0
    reads: int = 0

    @property
    def url(self) -> str:
        return self.inner.url

    def _fail(self) -> None:
        if self.lost_answer:
            raise TransientError("state_unavailable", "the answer was lost")
        raise Crash

    def _read(self) -> None:
        self.reads += 1
        if self.away:
            raise TransientError("state_unavailable", "the store is unavailable")

    def _write(self, apply: Callable[[], Any]) -> Any:
        if self.away:
            raise TransientError("state_unavailable", "the store is unavailable")
        self.writes += 1
        if self.writes == self.fail_at and not self.after:
            self._fail()
        result = apply()
        if self.writes == self.fail_at:
            self._fail()
        return result

    def get(self, path: str) -> Stored | None:
        self._read()
        return self.inner.get(path)

    def get_range(self, path: str, start: int, length: int) -> bytes:
        self._read()
        return self.inner.get_range(path, start, length)

    def list(self, prefix: str) -> Iterator[str]:
        self._read()
        return self.inner.list(prefix)

    def put(self, path: str, data: bytes) -> None:
        self._write(lambda: self.inner.put(path, data))

    def create(self, path: str, data: bytes) -> str:
        return str(self._write(lambda: self.inner.create(path, data)))

    def replace(self, path: str, data: bytes, version: str) -> str:
        return str(self._write(lambda: self.inner.replace(path, data, version)))

    def delete(self, path: str) -> None:
        self._write(lambda: self.inner.delete(path))

    def upload(self, path: str, source: Path) -> None:
        self._write(lambda: self.inner.upload(path, source))
