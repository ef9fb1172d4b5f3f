"""Names what a job waits for by one word, from the codes of errors and the reasons that workers report. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

OTHER: Final = "other"
LEASE: Final = "lease"

_CAUSES: Final = {
    "ollama": "embedder",
    "gateway": "embedder",
    "embedder": "embedder",
    "embedding": "embedder",
    "qdrant": "qdrant",
    "weaviate": "weaviate",
    "s3": "s3",
    "state": "state",
    "lease": LEASE,
    "ray": "cluster",
    "spark": "cluster",
    "engine": "cluster",
    "worker": "cluster",
    "parser": "cluster",
    "temp": "cluster",
}
"""By the first word of an error's code, or of a reason: ``qdrant_unavailable``, ``Qdrant at http://…``."""

CAUSES: Final = (*dict.fromkeys(_CAUSES.values()), OTHER)
"""Everything that a job may wait for."""


def name_causes(codes: Iterable[str], reasons: Iterable[str] = ()) -> set[str]:
    """Return what is waited for, given the codes of errors and the reasons of workers. Pure."""
    words = [*(code.partition("_")[0] for code in codes), *(reason.partition(" ")[0].lower() for reason in reasons)]
    return {_CAUSES.get(word, OTHER) for word in words}
