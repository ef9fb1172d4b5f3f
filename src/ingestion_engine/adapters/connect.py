"""Open the adapters that the settings choose. Each vendor's package is imported only when it is used."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from ingestion_engine.adapters.patience import Patience
from ingestion_engine.adapters.store_errors import store_not_configured
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import Embedder, EmbeddingGateway, ObjectSource, StateStore, VectorStore, WritePermit
from ingestion_engine.domain.records import EmbeddingFlow
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.server_urls import hide_credentials
from ingestion_engine.runtime.settings import Settings


def open_state_store(settings: Settings, url: str | None = None) -> StateStore:
    """Return the state store at ``url``, or at ``settings.state_url`` when None. Sends no request.

    Raises:
        FatalError: "store_not_configured" (no URL), "state_url_invalid".
    """
    place = url or settings.state_url
    if not place:
        raise FatalError("store_not_configured", "The state store is not configured.", hint="Set INGEST_STATE_URL.")
    scheme = urlsplit(place).scheme
    if scheme == "s3":
        from ingestion_engine.adapters.s3.state_store import S3StateStore

        return S3StateStore.from_settings(settings, place)
    if scheme == "file":
        from ingestion_engine.adapters.local_files import LocalStateStore

        return LocalStateStore(place)
    shown = hide_credentials(place)
    message = f"The state URL {shown!r} is neither s3://bucket/prefix nor file:///dir."
    raise FatalError("state_url_invalid", message, hint="Check INGEST_STATE_URL.", url=shown)


def open_source(settings: Settings, prefix: str = "") -> ObjectSource:
    """Return the object source. Sends no request.

    Args:
        settings: Settings with endpoint and credentials.
        prefix: A prefix that the account may list at least; empty means the whole bucket.
    """
    from ingestion_engine.adapters.s3.source import S3Source

    return S3Source.from_settings(settings, prefix)


def open_embedder(
    settings: Settings,
    in_flight: int,
    texts_per_second: float | None = None,
    *,
    flow: EmbeddingFlow,
    home: int | None = None,
) -> Embedder:
    """Return the embedder, bounded by the caller's share of the cluster-wide limits. Sends no request.

    Args:
        settings: Settings with the gateways, or with the servers when there are none.
        in_flight: Maximum number of requests in flight.
        texts_per_second: Maximum number of texts sent per second; None means no limit. The gateway has a limit of its
            own in its place.
        flow: Whose requests they are, for the gateway.
        home: Number of the preferred server, modulo the number of servers; None rotates through them.
    """
    if settings.gateway.url:
        from ingestion_engine.adapters.ollama.gateway_embedder import GatewayEmbedder

        return GatewayEmbedder.from_settings(settings, in_flight=in_flight, flow=flow)
    from ingestion_engine.adapters.ollama.embedder import OllamaEmbedder

    return OllamaEmbedder.from_settings(settings, in_flight=in_flight, texts_per_second=texts_per_second, home=home)


def open_gateway(settings: Settings) -> EmbeddingGateway | None:
    """Return the gateways in front of the embedder; None when none is configured. Sends no request."""
    if not settings.gateway.url:
        return None
    from ingestion_engine.adapters.ollama.gateway_client import GatewayClient

    return GatewayClient.from_settings(settings)


def open_stores(
    settings: Settings,
    names: Iterable[StoreName],
    *,
    permit: WritePermit | None = None,
    patience: Patience | None = None,
) -> dict[StoreName, VectorStore]:
    """Return the named stores. Sends no request. Cost: importing gRPC and Weaviate's messages takes half a second.

    Args:
        settings: Settings with the addresses.
        names: The stores to open.
        permit: Asked before every request that writes; None where no lease limits writes.
        patience: Repeats requests that fail for the moment; None where every failure is reported at once.

    Raises:
        FatalError: "store_not_configured", naming the setting that is missing.
    """
    return {name: _open_store(settings, name, permit, patience=patience) for name in names}


def _open_store(
    settings: Settings, name: StoreName, permit: WritePermit | None, *, patience: Patience | None
) -> VectorStore:
    if name is StoreName.QDRANT:
        from ingestion_engine.adapters.qdrant.store import QdrantStore

        return QdrantStore.from_settings(settings, permit, patience)
    if settings.weaviate.url is None:  # reported before the slow import
        raise store_not_configured(name)
    from ingestion_engine.adapters.weaviate.store import WeaviateStore

    return WeaviateStore.from_settings(settings, permit, patience)
