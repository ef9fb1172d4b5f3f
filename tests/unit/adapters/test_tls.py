"""Private authorities: one file is enough for every client, and a bad certificate is named after the first attempt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from ingestion_engine.adapters.connect import (
    open_embedder,
    open_gateway,
    open_source,
    open_state_store,
    open_stores,
)
from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.source import S3Source
from ingestion_engine.adapters.s3.upload import find_files, upload_files
from ingestion_engine.client import ApiUnreachable, IngestClient
from ingestion_engine.domain.errors import TlsFailed, TransientError
from ingestion_engine.domain.records import EmbeddingFlow, ObjectRef
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.settings import GatewaySettings, S3Settings, Settings
from ingestion_engine.services.ray_service import RayService
from ingestion_engine.submission.kubernetes.api import KubernetesApi
from support.answering import serving
from support.authority import Fault, PrivateAuthority
from support.exact_s3 import KEY_ID, SECRET, exact_s3

ANSWERS: dict[str, Callable[[bytes], tuple[int, Any]]] = {
    "/": lambda _: (200, {"version": "1.19.0"}),
    "/collections": lambda _: (200, {"result": {"collections": []}, "status": "ok", "time": 0.1}),
    "/collections?limit=100": lambda _: (200, {"items": [], "next_cursor": None}),
    "/v1/meta": lambda _: (200, {"version": "1.39.0"}),
    "/v1/schema": lambda _: (200, {"classes": []}),
    "/api/version": lambda _: (200, {"ray_version": "2.60.0"}),
    "/readyz": lambda _: (200, {"status": "ok"}),
    "/api/tags": lambda _: (200, {"models": [{"name": "m:latest", "model": "m:latest", "digest": "d" * 64}]}),
    "/api/show": lambda _: (
        200,
        {"capabilities": ["embedding"], "model_info": {"general.architecture": "b", "b.embedding_length": 3}},
    ),
    "/version/": lambda _: (
        200,
        dict.fromkeys(
            ("buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "major", "minor"), "v1"
        )
        | {"platform": "linux"},
    ),
}


@dataclass(frozen=True)
class World:
    """One server for all HTTP clients, and one for gRPC, with certificates of a private authority."""

    url: str
    grpc_url: str
    ca_file: Path

    def settings(self, ca_file: Path | None) -> Settings:
        """Return settings that name the servers."""
        return Settings.model_validate(
            {
                "tls": {"ca_file": ca_file},
                "s3": {"endpoint_url": self.url},
                "ollama": {"urls": [self.url], "model": "m"},
                "qdrant": {"url": self.url},
                "weaviate": {"url": self.url, "grpc_url": self.grpc_url},
                "ray": {"address": self.url},
            }
        )


@contextlib.contextmanager
def serving_grpc(authority: PrivateAuthority, fault: Fault | None) -> Iterator[str]:
    """Serve Weaviate's health check over TLS."""
    issued = authority.issue(fault)
    server = grpc.server(ThreadPoolExecutor(2))
    answer = grpc.unary_unary_rpc_method_handler(lambda *_: b"\x08\x01")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": answer}),))
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        server.stop(None)


@contextlib.contextmanager
def a_world(folder: Path, rest: Fault | None = None, over_grpc: Fault | None = None) -> Iterator[World]:
    authority = PrivateAuthority(folder)
    with serving(ANSWERS, authority.context(rest)) as url, serving_grpc(authority, over_grpc) as grpc_url:
        yield World(url, grpc_url, authority.file)


async def check_store(settings: Settings, name: StoreName) -> None:
    store = open_stores(settings, [name])[name]
    try:
        await store.check()
    finally:
        await store.close()


async def check_embedder(settings: Settings) -> None:
    embedder = open_embedder(settings, 1, flow=EmbeddingFlow("test"))
    try:
        await embedder.describe("m")
    finally:
        await embedder.close()


def in_front(settings: Settings) -> Settings:
    """The same with a gateway at the place of Ollama."""
    return settings.model_copy(update={"gateway": GatewaySettings(url=settings.ollama.urls)})


async def check_flows(settings: Settings) -> None:
    gateway = open_gateway(settings)
    assert gateway is not None
    try:
        await gateway.check(gateway.urls[0])
    finally:
        await gateway.close()


async def check_ray(settings: Settings) -> None:
    service = RayService.from_settings(settings)
    try:
        await service.check()
    finally:
        await service.close()


def write_kubeconfig(folder: Path, url: str) -> Path:
    file = folder / "kubeconfig"
    file.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
""",
        encoding="utf-8",
    )
    return file


async def check_kubernetes(settings: Settings) -> None:
    assert settings.s3.endpoint_url is not None
    folder = settings.tls.ca_file.parent if settings.tls.ca_file is not None else Path()
    kubeconfig = write_kubeconfig(folder, settings.s3.endpoint_url)
    api = KubernetesApi("spark", kubeconfig=kubeconfig, ca_file=settings.tls.ca_file)
    try:
        await api.get_version()
    finally:
        await api.close()


CHECKS: dict[str, Callable[[Settings], Awaitable[None]]] = {
    "ollama": check_embedder,
    "gateway": lambda settings: check_embedder(in_front(settings)),
    "flows": lambda settings: check_flows(in_front(settings)),
    "qdrant": lambda settings: check_store(settings, StoreName.QDRANT),
    "weaviate": lambda settings: check_store(settings, StoreName.WEAVIATE),
    "ray": check_ray,
    "kubernetes": check_kubernetes,
}


@pytest.mark.parametrize("name", CHECKS)
async def test_one_setting_is_enough_for_every_client(name: str, tmp_path: Path) -> None:
    """INGEST_TLS__CA_FILE names the authority; nothing else does."""
    with a_world(tmp_path) as world:
        await CHECKS[name](world.settings(world.ca_file))


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("name", CHECKS)
async def test_a_bad_certificate_is_named_after_the_first_attempt(name: str, fault: Fault, tmp_path: Path) -> None:
    """Each kind has its own sentence, and a hint that names the setting."""
    with a_world(tmp_path, rest=fault) as world:
        began = time.monotonic()
        with pytest.raises(TlsFailed, match=fault.value) as failed:
            await CHECKS[name](world.settings(world.ca_file))
    assert failed.value.code == "tls_failed"
    assert "INGEST_TLS__CA_FILE" in failed.value.hint
    assert time.monotonic() - began < 4  # the retries of the embedder last five seconds


@pytest.mark.parametrize("fault", Fault)
async def test_a_bad_certificate_of_the_grpc_port_is_named(fault: Fault, tmp_path: Path) -> None:
    """The status is UNAVAILABLE, and only its text names the cause."""
    with a_world(tmp_path, over_grpc=fault) as world:
        with pytest.raises(TlsFailed) as failed:
            await CHECKS["weaviate"](world.settings(world.ca_file))
        assert "INGEST_TLS__CA_FILE" in failed.value.hint
        if fault is not Fault.STRANGER:  # gRPC does not give OpenSSL's reason for a chain
            assert fault.value in failed.value.message


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "kubernetes"])
async def test_a_port_without_tls_is_named(name: str, tmp_path: Path) -> None:
    """https:// for a server that speaks HTTP."""
    authority = PrivateAuthority(tmp_path)
    with serving(ANSWERS) as plain:
        url = plain.replace("http://", "https://")
        settings = World(url, url, authority.file).settings(authority.file)
        with pytest.raises(TlsFailed, match="does not use TLS"):
            await CHECKS[name](settings)


# -- S3 ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> PrivateAuthority:
    return PrivateAuthority(tmp_path)


@pytest.fixture
async def secure_s3(authority: PrivateAuthority) -> AsyncIterator[S3Settings]:
    """An S3 server with a certificate of the private authority, and one object."""
    with exact_s3(authority.context()) as url:
        settings = S3Settings.model_validate(
            {"endpoint_url": url, "access_key_id": KEY_ID, "secret_access_key": SECRET}
        )
        client = make_client(settings, ca_file=authority.file)
        client.create_bucket(Bucket="docs")
        client.put_object(Bucket="docs", Key="a", Body=b"x")
        yield settings


def a_ref(key: str = "a") -> ObjectRef:
    return ObjectRef("docs", key, "", 1, "2026-01-01T00:00:00Z")


async def test_s3_is_read_on_the_fast_path(
    secure_s3: S3Settings, authority: PrivateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """Both clients of S3 trust the file: obstore reads, and botocore lists."""
    source = open_source(Settings.model_validate({"tls": {"ca_file": authority.file}, "s3": secure_s3}))
    source.check_bucket("docs")
    assert (await source.fetch(a_ref(), max_bytes=10)).body == b"x"
    state = open_state_store(
        Settings.model_validate({"tls": {"ca_file": authority.file}, "s3": secure_s3}), "s3://docs"
    )
    assert (found := state.get("a")) is not None
    assert found.data == b"x"
    await source.close()
    assert not [record for record in caplog.records if "obstore" in record.message]


async def test_awss_own_variable_counts_for_both_clients(
    secure_s3: S3Settings,
    authority: PrivateAuthority,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, obstore did not know it, and every object took the slow path without a word."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    source = S3Source(secure_s3)
    assert (await source.fetch(a_ref(), max_bytes=10)).body == b"x"
    assert "_client" not in vars(source), "botocore was needed"
    await source.close()
    assert not caplog.records


async def test_the_slow_path_is_logged_once_with_its_cause(
    secure_s3: S3Settings, authority: PrivateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """The fast client fails and botocore succeeds: here because only botocore trusts the server."""
    source = S3Source(secure_s3)
    source._client = make_client(secure_s3, ca_file=authority.file)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert (await source.fetch(a_ref(), max_bytes=10)).body == b"x"
    await source.close()
    (record,) = [record for record in caplog.records if "obstore" in record.message]
    assert "InvalidCertificate UnknownIssuer" in record.__dict__["error"]


@pytest.mark.parametrize("fault", Fault)
async def test_s3s_bad_certificate_is_named(fault: Fault, authority: PrivateAuthority, tmp_path: Path) -> None:
    """Listing, reading, the state store and the upload; botocore does not repeat the request."""
    with exact_s3(authority.context(fault)) as url:
        keys = {"endpoint_url": url, "access_key_id": KEY_ID, "secret_access_key": SECRET}
        settings = Settings.model_validate({"tls": {"ca_file": authority.file}, "s3": keys})
        source, state = open_source(settings), open_state_store(settings, "s3://docs")
        (tmp_path / "up").mkdir()
        (tmp_path / "up" / "file").write_bytes(b"x")
        files = find_files(tmp_path / "up", "")
        began = time.monotonic()
        with pytest.raises(TlsFailed, match=fault.value) as failed:
            source.check_bucket("docs")
        with pytest.raises(TlsFailed, match=fault.value):
            await source.fetch(a_ref(), max_bytes=10)
        with pytest.raises(TlsFailed, match=fault.value):
            state.get("a")
        with pytest.raises(TlsFailed, match=fault.value):
            state.create("a", b"")
        with pytest.raises(TlsFailed, match=fault.value):
            list(upload_files(settings.s3, "docs", files, ca_file=authority.file))
        await source.close()
    assert "INGEST_TLS__CA_FILE" in failed.value.hint
    assert url in failed.value.message
    assert time.monotonic() - began < 4  # retries would take ten seconds each


async def test_a_broken_handshake_is_an_outage(tmp_path: Path) -> None:
    """A server that closes the connection during the handshake may be restarting."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    authority = PrivateAuthority(tmp_path)
    async with server:
        with pytest.raises(TransientError) as failed:
            await CHECKS["qdrant"](World(url, url, authority.file).settings(authority.file))
    assert failed.value.code == "qdrant_unavailable"


# -- the product's own client ------------------------------------------------------------------------------------------


def test_the_client_of_the_service_trusts_the_file(tmp_path: Path) -> None:
    """A service behind a proxy with a private certificate."""
    with a_world(tmp_path) as world:
        with IngestClient(world.url, ca_file=world.ca_file) as client:
            assert client.list_collections() == []
        with IngestClient(world.url) as client, pytest.raises(ApiUnreachable, match="not trusted") as failed:
            client.list_collections()
    assert "INGEST_TLS__CA_FILE" in str(failed.value.hint)
