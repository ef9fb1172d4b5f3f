"""Keys that S3 accepts but SeaweedFS does not (`//`, `./`, slashes at either end), against the S3 server of moto."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.source import S3Source
from ingestion_engine.runtime.settings import S3Settings
from support.corpus.keys import AWKWARD_KEYS, seaweedfs_stores


@pytest.fixture(scope="module")
def settings() -> Iterator[S3Settings]:
    """A server in memory that keeps every key unchanged, except for line breaks."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Settings(
        endpoint_url=f"http://{host}:{port}", access_key_id=SecretStr("any"), secret_access_key=SecretStr("any")
    )
    server.stop()


async def test_every_awkward_key_is_listed_and_read_unchanged(settings: S3Settings) -> None:
    """With either client, no key is normalised, cut or confused with another."""
    client = make_client(settings)
    client.create_bucket(Bucket="odd")
    keys = [key for key in AWKWARD_KEYS if "\n" not in key]
    assert sum(not seaweedfs_stores(key, 1) for key in keys) >= 6
    for key in keys:
        client.put_object(Bucket="odd", Key=key, Body=f"body of {key}".encode())
    source = S3Source(settings)
    listed = {ref.key: ref for ref in source.list_objects("odd", "")}
    assert sorted(listed) == sorted(keys)
    for key, ref in listed.items():
        raw = await source.fetch(ref, max_bytes=10_000)
        assert raw.body == f"body of {key}".encode()
        assert raw.ref == ref
        assert await source.exists("odd", key)
    await source.close()
    client.close()
