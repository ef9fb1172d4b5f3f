"""A password in the URL of a server is used for requests only: no message, command line or manifest has it."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest

from ingestion_engine.adapters.connect import open_state_store, open_stores
from ingestion_engine.adapters.s3.client import Place, make_client, s3_errors
from ingestion_engine.adapters.s3.obstore_client import FallbackLog
from ingestion_engine.adapters.s3.trial import S3Trial
from ingestion_engine.adapters.transport import HttpClient, Response, transport_errors
from ingestion_engine.domain.errors import FatalError, IngestionError
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.spec import StoreName
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.runtime.spec_uri import with_location
from ingestion_engine.services.ray_service import build_entrypoint
from ingestion_engine.submission.kubernetes.spark_manifest import build_manifest
from ingestion_engine.submission.ray.jobs import RayJobsClient

PASSWORD = "pass-of-a-url"
SPEC = "s3://state/jobs/job-a/spec.json"

ANSWERS = {
    "401": Response(401, b"no", {}),
    "404": Response(404, b'{"status": {"error": "Not found: Collection `notes` doesn\'t exist!"}}', {}),
    "404 of others": Response(404, b"nothing here", {}),
    "409": Response(409, b'{"status": {"error": "Wrong input"}}', {}),
    "422": Response(422, b'{"error": [{"message": "class name notes already exists"}]}', {}),
    "500": Response(500, b"broken", {}),
    "no JSON": Response(200, b"<html>", {}),
    "other JSON": Response(200, b'{"versions": []}', {}),
}

CALLS: dict[str, Callable[[VectorStore], Awaitable[object]]] = {
    "check": lambda store: store.check(),
    "list": lambda store: store.list_collections(),
    "drop": lambda store: store.drop_collection("notes"),
    "set alias": lambda store: store.set_alias("docs", "notes"),
    "drop alias": lambda store: store.drop_alias("docs"),
    "list aliases": lambda store: store.list_aliases(),
    "count": lambda store: store.count("notes"),
}


def with_password(port: int = 9) -> str:
    return f"http://somebody:{PASSWORD}@127.0.0.1:{port}"


def settings() -> Settings:
    return Settings(
        s3={"endpoint_url": with_password(), "access_key_id": "id", "secret_access_key": "key"},
        qdrant={"url": with_password()},
        weaviate={"url": with_password()},
        spark={"namespace": "spark", "image": "ingest:1"},
        ray={"address": with_password()},
    )


def show(error: IngestionError) -> str:
    """Everything that a log line, a ledger or an answer may have of an error."""
    return repr((error.record(), error.log_fields(), str(error)))


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("name", list(StoreName))
@pytest.mark.parametrize("answer", ANSWERS)
async def test_no_error_of_a_store_has_it(name: StoreName, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the server answers; every request is sent with it."""
    bases: set[str] = set()

    async def respond(_client: HttpClient, _method: str, base: str, _path: str, **_: Any) -> Response:
        bases.add(base)
        return ANSWERS[answer]

    monkeypatch.setattr(HttpClient, "request", respond)
    store, shown = open_stores(settings(), [name])[name], []
    for call in CALLS.values():
        try:
            await call(store)
        except IngestionError as error:
            shown.append(show(error))
    await store.close()
    assert bases == {with_password()}
    assert [text for text in shown if PASSWORD in text] == []
    assert shown


@pytest.mark.parametrize("error", [aiohttp.InvalidURL(with_password()), ValueError(with_password())])
def test_no_error_of_http_has_it(error: Exception) -> None:
    """The library names the URL as it is in some of its own."""
    with pytest.raises(IngestionError) as caught, transport_errors("qdrant", "http://127.0.0.1:9"):
        raise error
    assert PASSWORD not in show(caught.value)


def test_no_error_of_s3_has_it(closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nor the line that says that obstore failed, nor what the doctor prints."""
    s3 = settings().s3.model_copy(update={"endpoint_url": with_password(closed_port)})
    with pytest.raises(IngestionError) as caught, s3_errors(Place("docs")):
        make_client(s3, attempts=1).list_buckets()
    assert caught.value.message == f"S3 at http://127.0.0.1:{closed_port} refuses connections."
    assert PASSWORD not in show(caught.value)
    with caplog.at_level(logging.WARNING):
        FallbackLog(s3).note(RuntimeError("reset"), "docs")
    assert [vars(record)["endpoint"] for record in caplog.records] == [f"http://127.0.0.1:{closed_port}"]
    assert S3Trial(s3).endpoint_url == f"http://127.0.0.1:{closed_port}"


@pytest.mark.parametrize("url", [f"s3://id:{PASSWORD}@state/prefix", f"https://id:{PASSWORD}@minio:9000/state"])
def test_a_state_url_with_an_account_is_refused_without_naming_it(url: str) -> None:
    """It would be part of every spec's URI, which is on the command lines of drivers."""
    with pytest.raises(FatalError) as caught:
        open_state_store(settings(), url)
    assert caught.value.code == "state_url_invalid"
    assert PASSWORD not in show(caught.value)


async def test_no_error_of_ray_has_it() -> None:
    """The address is named where its certificate is refused."""

    def refuse(_: httpx.Request) -> httpx.Response:
        cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
        cause.verify_message = "self-signed certificate"
        raise httpx.ConnectError("refused") from cause

    client = RayJobsClient(with_password(), transport=httpx.MockTransport(refuse))
    with pytest.raises(IngestionError) as caught:
        await client.get_version()
    await client.close()
    assert caught.value.code == "tls_failed"
    assert PASSWORD not in show(caught.value)
    assert PASSWORD not in client.url


def test_no_command_line_and_no_manifest_has_it() -> None:
    """Every user of a node sees command lines, everybody with access to the dashboard or namespace the others."""
    entrypoint = build_entrypoint("python", with_location(SPEC, settings()), 1)
    manifest = build_manifest("job-a", 1, SPEC, parallelism=2, settings=settings())
    for text in (entrypoint, repr(manifest)):
        assert "127.0.0.1" in text
        assert PASSWORD not in text
