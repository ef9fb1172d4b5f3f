"""Errors of every VectorStore when its server is unavailable, not ready or refuses access."""

from __future__ import annotations

import contextlib
import functools
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.adapters.qdrant.store import QdrantStore
from ingestion_engine.adapters.weaviate.schema import make_definition
from ingestion_engine.adapters.weaviate.store import WeaviateStore
from ingestion_engine.domain.errors import CollectionMissing, FatalError, IngestionError, TransientError
from ingestion_engine.domain.ids import make_object_id
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.retry import RetryPolicy, retry_async
from ingestion_engine.runtime.settings import QdrantSettings, Settings, WeaviateSettings
from support import servers
from support.answering import serving
from support.vector_stores import EVERYTHING, make_contract, make_point, make_settings, make_vector, read_all


class TestOutages:
    """Servers that are unavailable or refuse access."""

    async def test_refused_connections(self, request: pytest.FixtureRequest) -> None:
        """Every call is transient."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        contract = make_contract("nowhere")
        stores: list[VectorStore] = [QdrantStore(url), WeaviateStore(url, url)]
        rest = make_settings(request).weaviate
        assert rest.url is not None
        key = rest.api_key.get_secret_value() if rest.api_key else None
        half_away = WeaviateStore(rest.url, url, key)
        for store in [*stores, half_away]:
            for call in (
                store.check(),
                store.count("nowhere"),
                store.upsert("nowhere", [make_point("a", 0)]),
                store.search("nowhere", make_vector(1), limit=1, where=EVERYTHING),
            ):
                with pytest.raises(TransientError):
                    await call
        for store in stores:
            with pytest.raises(TransientError):
                await store.ensure_collection(contract)
            await store.close()
        await half_away.close()

    @pytest.mark.parametrize("name", list(StoreName))
    async def test_a_server_that_comes_back(self, name: StoreName, tmp_path: Path) -> None:
        """Killed and started again on the same data: the same adapter works again, and no point is lost."""
        start = servers.start_qdrant if name is StoreName.QDRANT else servers.start_weaviate
        with servers.stopping(start(tmp_path)) as first:
            (key,) = first.secrets.values()
            ports = {"port": int(first.url.rsplit(":", 1)[1])} | {
                f"{kind}_port": at for kind, at in first.ports.items()
            }
            store: VectorStore = QdrantStore(first.url, key)
            if name is StoreName.WEAVIATE:
                store = WeaviateStore(first.url, f"http://127.0.0.1:{ports['grpc_port']}", key)
            contract = make_contract("survivor")
            await store.ensure_collection(contract)
            await store.upsert("survivor", [make_point("a", 0)])
            first.kill()
            for _ in range(3):
                with pytest.raises(TransientError):
                    await store.upsert("survivor", [make_point("a", 1)])
            with servers.stopping(start(tmp_path, api_key=key, **ports)):
                patient = RetryPolicy(first_s=0.1, longest_s=1.0, deadline_s=20.0)
                write = functools.partial(store.upsert, "survivor", [make_point("a", 1)])
                await retry_async(write, TransientError, patient)
                await store.check_collection(contract)
                assert await store.count("survivor") == 2
                await store.close()

    async def test_a_weaviate_that_has_not_loaded_its_schema(self, tmp_path: Path) -> None:
        """A class missing in gRPC is checked over REST: if it exists or REST is unavailable, the error is transient."""
        with (
            servers.stopping(servers.start_weaviate(tmp_path / "loaded", api_key="key")) as loaded,
            servers.stopping(servers.start_weaviate(tmp_path / "starting", api_key="key")) as starting,
        ):
            whole, half = (
                WeaviateStore(loaded.url, f"http://127.0.0.1:{server.ports['grpc']}", "key")
                for server in (loaded, starting)
            )
            await whole.ensure_collection(make_contract("slow"))

            def calls(name: str) -> list[Callable[[], Any]]:
                return [
                    lambda: half.count(name),
                    lambda: half.read_points(name, [make_point("a", 0).id], with_vectors=False),
                    lambda: half.delete_object_points(name, [make_object_id("docs", "a")], before_epoch=2),
                    lambda: half.search(name, make_vector(1), limit=3, where=EVERYTHING),
                    lambda: read_all(half, name),
                ]

            for call in calls("slow"):
                with pytest.raises(TransientError, match="has not loaded collection 'slow' yet"):
                    await call()
            for call in calls("never"):
                with pytest.raises(FatalError) as missing:
                    await call()
                assert missing.value.code == "collection_missing"
            loaded.kill()
            for call in calls("slow"):
                with pytest.raises(TransientError):
                    await call()
            await whole.close()
            await half.close()

    async def test_a_weaviate_that_is_not_ready(self) -> None:
        """A class is missing only when a server that is ready lists its classes without it."""
        contract = make_contract("slow")
        ready, starting, page = (200, {}), (503, {}), (404, b"default backend - 404")
        listed, empty = (200, {"classes": [make_definition(contract)]}), (200, {"classes": []})
        for readiness, classes, error in (
            (starting, listed, TransientError),
            (page, page, TransientError),
            (ready, page, TransientError),
            (ready, empty, CollectionMissing),
            (ready, listed, None),
        ):
            with serving(
                {
                    "/v1/schema/Slow": lambda _: (404, b""),
                    "/v1/.well-known/ready": lambda _, readiness=readiness: readiness,
                    "/v1/schema": lambda _, classes=classes: classes,
                }
            ) as url:
                store = WeaviateStore(url)
                with contextlib.nullcontext() if error is None else pytest.raises(error) as raised:
                    await store.check_collection(contract)
                await store.close()
            assert error is None or type(raised.value) is error

    @pytest.mark.parametrize("name", list(StoreName))
    @pytest.mark.parametrize("status", [400, 404, 422])
    @pytest.mark.parametrize("page", [b"", b"default backend - 404"])
    async def test_a_proxy_that_answers_instead(self, name: StoreName, status: int, page: bytes) -> None:
        """Its page is an outage: no collection is missing, refused or dropped, and no alias is unsupported."""
        contract = make_contract("hidden")
        with serving({"*": lambda _: (status, page)}) as url:
            store: VectorStore = QdrantStore(url) if name is StoreName.QDRANT else WeaviateStore(url, url)
            for call in (
                store.check(),
                store.check_collection(contract),
                store.ensure_collection(contract),
                store.drop_collection("hidden"),
                store.count("hidden"),
                store.upsert("hidden", [make_point("a", 0)]),
                store.delete_points("hidden", [make_point("a", 0).id]),
                store.set_alias("a", "hidden"),
                store.list_aliases(),
                store.drop_alias("a"),
            ):
                with pytest.raises(IngestionError) as raised:
                    await call
                assert type(raised.value) is TransientError, (raised.value, call)
            await store.close()

    @pytest.mark.parametrize("name", list(StoreName))
    @pytest.mark.parametrize("page", [b"<html>Sorry</html>", b"{}", b'{"status": "ok"}', b'{"result": true}', b"[]"])
    async def test_a_server_that_answers_instead_with_success(self, name: StoreName, page: bytes) -> None:
        """Nothing is written, dropped, missing or different because of it, and no list is empty."""
        contract = make_contract("hidden")
        with serving({"*": lambda _: (200, page)}) as url:
            store: VectorStore = QdrantStore(url) if name is StoreName.QDRANT else WeaviateStore(url)
            calls = [
                lambda: store.check_collection(contract),
                lambda: store.ensure_collection(contract),
                lambda: store.set_alias("now", "hidden"),
                store.list_aliases,
                store.list_collections,
            ]
            if name is StoreName.QDRANT:  # Weaviate's points are read and written over gRPC
                calls += [
                    lambda: store.upsert("hidden", [make_point("a", 0)]),
                    lambda: store.delete_object_points("hidden", [make_object_id("docs", "a")], before_epoch=2),
                    lambda: store.delete_points("hidden", [make_point("a", 0).id]),
                    lambda: store.read_points("hidden", [make_point("a", 0).id], with_vectors=False),
                    lambda: store.count("hidden"),
                ]
            calls += [lambda: store.drop_collection("hidden"), lambda: store.drop_alias("now")]
            for call in calls:
                with pytest.raises(TransientError):
                    await call()
            await store.close()

    async def test_wrong_key_is_fatal(self, request: pytest.FixtureRequest) -> None:
        """The key is never in the error."""
        settings = make_settings(request)
        if settings.qdrant.api_key is None or settings.weaviate.api_key is None:
            pytest.fail("run this suite against servers that ask for a key")
        assert settings.qdrant.url is not None
        assert settings.weaviate.url is not None
        wrong = f"wrong-{uuid.uuid4()}"
        stores: list[VectorStore] = [
            QdrantStore(settings.qdrant.url, wrong),
            WeaviateStore(settings.weaviate.url, settings.weaviate.grpc_url, wrong),
        ]
        for store in stores:
            for call in (store.check(), store.count("any"), store.check_collection(make_contract("any"))):
                with pytest.raises(FatalError) as refused:
                    await call
                assert refused.value.code == "store_access_denied"
                assert wrong not in repr(refused.value.record())
            await store.close()

    @pytest.mark.parametrize("name", list(StoreName))
    def test_a_store_without_url_is_not_configured(self, name: StoreName) -> None:
        """The message names the setting."""
        bare = Settings(qdrant=QdrantSettings(), weaviate=WeaviateSettings())
        with pytest.raises(FatalError) as refused:
            open_stores(bare, [name])
        assert refused.value.code == "store_not_configured"
        assert f"INGEST_{name.upper()}__URL" in refused.value.hint
