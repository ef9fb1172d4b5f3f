"""Adapters by setting: which implementation of each port this process uses. Each vendor is imported only when it is
used.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import Embedder, ObjectSource, StateStore, VectorStore
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.settings import Settings


def open_state_store(settings: Settings, url: str | None = None) -> StateStore:
    """Return the state store at ``url``, or at ``settings.state_url`` when None. No request is made.

    Raises:
        FatalError: "store_not_configured" (no URL), "state_url_invalid".
    """
    place = url or settings.state_url
    if not place:
        raise FatalError("store_not_configured", "the state store is not configured", hint="Set INGEST_STATE_URL.")
    scheme = urlsplit(place).scheme
    if scheme == "s3":
        from ingestion_engine.adapters.s3.state_store import S3StateStore

        return S3StateStore.from_settings(settings, place)
    if scheme == "file":
        from ingestion_engine.adapters.local_files import LocalStateStore

        return LocalStateStore(place)
    said = f"{place!r} is neither s3://bucket/prefix nor file:///dir"
    raise FatalError("state_url_invalid", said, hint="Check INGEST_STATE_URL.", url=place)


def open_source(settings: Settings) -> ObjectSource:
    """Return the buckets to read. No request is made."""
    from ingestion_engine.adapters.s3.source import S3Source

    return S3Source.from_settings(settings)


def open_embedder(
    settings: Settings, in_flight: int, texts_per_second: float | None = None, *, home: int | None = None
) -> Embedder:
    """Return the embedder, bounded by the caller's share of the cluster-wide limits. No request is made.

    ``home`` is the server, modulo their number, that is asked where others are as good; None takes turns.
    """
    from ingestion_engine.adapters.ollama.embedder import OllamaEmbedder

    return OllamaEmbedder.from_settings(settings, in_flight, texts_per_second, home)


def open_stores(settings: Settings, names: Iterable[StoreName]) -> dict[StoreName, VectorStore]:
    """Return the named stores. No request is made. Cost: importing gRPC and Weaviate's messages takes half a second.

    Raises:
        FatalError: "store_not_configured", naming the setting that is missing.
    """
    return {name: _open_store(settings, name) for name in names}


def _open_store(settings: Settings, name: StoreName) -> VectorStore:
    if name is StoreName.QDRANT:
        from ingestion_engine.adapters.qdrant.store import QdrantStore

        return QdrantStore.from_settings(settings)
    if settings.weaviate.url is None:  # said before the slow import
        hint = "Set INGEST_WEAVIATE__URL."
        raise FatalError("store_not_configured", "the store weaviate is not configured", hint=hint, store="weaviate")
    from ingestion_engine.adapters.weaviate.store import WeaviateStore

    return WeaviateStore.from_settings(settings)
