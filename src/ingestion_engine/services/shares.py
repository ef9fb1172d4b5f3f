"""How many embedding requests a job may have in flight: partitions at once, times the share of each of them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ingestion_engine.domain.spec import JobRequest
from ingestion_engine.runtime.settings import Settings

QUEUED_PER_SERVER: Final = 2
"""Requests of a job per Ollama server: one that is worked on and one that waits at the door, so that the server need
not wait for a worker between an answer and the next request. A third only waits longer (``docs/performance.md``)."""

LARGEST_SHARE: Final = 8
"""Requests in flight per partition at most: 256 texts at the default batch size, an eighth of a default partition.
With more, a partition spends its time beginning and ending rather than keeping that many servers busy."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a job gets of the embedding limit."""

    parallelism: int
    """Partitions at once."""
    share: int
    """Embedding requests in flight per partition."""

    @property
    def requests(self) -> int:
        """Embedding requests in flight at most, of all its partitions together."""
        return self.parallelism * self.share


def grant_parallelism(settings: Settings, request: JobRequest) -> int:
    """Return how many partitions of a job may run at once: what it asks for, at most the whole limit. Pure."""
    return min(request.parallelism, settings.embed_in_flight)


def choose_share(settings: Settings, parallelism: int, free: int) -> int:
    """Return the embedding requests in flight of each of ``parallelism`` partitions, at least 1. Pure.

    As many as give every server ``QUEUED_PER_SERVER`` of them, but beyond one per partition never more than half of
    what is free: the next jobs find room, each half of the rest, and need not wait for this one's end.

    Args:
        settings: Servers.
        parallelism: Partitions at once, as granted.
        free: What no admitted job holds of ``Settings.embed_in_flight`` before this one is admitted.
    """
    servers = len(set(settings.ollama.urls))
    enough = math.ceil(QUEUED_PER_SERVER * servers / parallelism)
    return max(1, min(enough, LARGEST_SHARE, free // 2 // parallelism))
