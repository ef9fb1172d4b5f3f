"""Systems that several copies of the service share, with requests that overtake each other."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass, field
from typing import Any

from ingestion_engine.domain.ports import Stored
from support.doubles import MemoryState, MemoryStore


@dataclass
class SharedState(MemoryState):
    """A state store for many threads, whose conditional writes are atomic; it keeps all values of each path."""

    history: dict[str, list[bytes]] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def create(self, path: str, data: bytes) -> str:
        with self._lock:
            return super().create(path, data)

    def replace(self, path: str, data: bytes, version: str) -> str:
        with self._lock:
            return super().replace(path, data, version)

    def delete(self, path: str) -> None:
        with self._lock:
            super().delete(path)

    def get(self, path: str) -> Stored | None:
        with self._lock:
            return super().get(path)

    def list(self, prefix: str) -> Any:
        with self._lock:
            return iter(list(super().list(prefix)))

    def _write(self, kind: str, path: str, data: bytes) -> str:
        version = super()._write(kind, path, data)
        self.history.setdefault(path, []).append(data)
        return version


@dataclass
class SlowStore(MemoryStore):
    """A store that lets others go first, by chance, before it does what it is asked."""

    chance: random.Random = field(default_factory=random.Random)

    async def set_alias(self, alias: str, collection: str) -> None:
        await self._wait()
        await super().set_alias(alias, collection)

    async def drop_alias(self, alias: str) -> None:
        await self._wait()
        await super().drop_alias(alias)

    async def drop_collection(self, collection: str) -> None:
        """As the real ones: the aliases of a collection go with it."""
        await self._wait()
        await super().drop_collection(collection)
        self.aliases = {alias: held for alias, held in self.aliases.items() if held != collection}

    async def check_collection(self, contract: Any) -> None:
        await self._wait()
        await super().check_collection(contract)

    async def list_aliases(self) -> dict[str, str]:
        await self._wait()
        return await super().list_aliases()

    async def _wait(self) -> None:
        for _ in range(self.chance.choice((0, 0, 1, 5, 20, 100))):
            await asyncio.sleep(0)
            await asyncio.to_thread(_nothing)


def _nothing() -> None:
    """What a thread does, so that the loop really waits for something."""
