"""Keys that S3 accepts but SeaweedFS cannot hold (`//`, `./`, slashes at either end), on a server that keeps them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.source import S3Source
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.runtime.settings import S3Settings
from support.corpus.keys import AWKWARD_KEYS, seaweedfs_stores
from support.exact_s3 import KEY_ID, SECRET, exact_s3


@pytest.fixture
def settings() -> Iterator[S3Settings]:
    with exact_s3() as url:
        yield S3Settings(endpoint_url=url, access_key_id=SecretStr(KEY_ID), secret_access_key=SecretStr(SECRET))


async def test_every_awkward_key_is_listed_and_read_as_it_is(settings: S3Settings) -> None:
    """Whatever client has to fetch it: no key is folded, cut or confused with another."""
    client = make_client(settings)
    client.create_bucket(Bucket="odd")
    assert sum(not seaweedfs_stores(key, 1) for key in AWKWARD_KEYS) >= 6
    for key in AWKWARD_KEYS:
        client.put_object(Bucket="odd", Key=key, Body=f"body of {key}".encode())
    source = S3Source(settings)
    listed = {ref.key: ref for ref in source.list_objects("odd", "")}
    assert sorted(listed) == sorted(AWKWARD_KEYS)
    for key, ref in listed.items():
        raw = await source.fetch(ref, max_bytes=10_000)
        assert raw.body == f"body of {key}".encode()
        assert raw.ref == ref
        assert await source.exists("odd", key)
    assert not await source.exists("odd", "awkward/double-slash.txt")
    await source.close()
    client.close()


def test_a_request_that_is_signed_otherwise_is_refused(settings: S3Settings) -> None:
    """Else the server would not notice a client that signs another key than it asks for."""
    wrong = settings.model_copy(update={"secret_access_key": SecretStr("wrong")})
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        make_client(wrong).create_bucket(Bucket="odd")
    with pytest.raises(FatalError):
        list(S3Source(wrong).list_objects("odd", ""))
