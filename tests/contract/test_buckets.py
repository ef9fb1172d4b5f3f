"""The buckets of these tests: nothing of a test stays on a server that outlives it."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.listing import list_pages
from ingestion_engine.runtime.settings import S3Settings
from support.buckets import choose_s3, empty_bucket, new_bucket


def test_a_bucket_is_emptied(s3_settings: S3Settings, s3_bucket: str) -> None:
    """Of objects, keys that XML cannot carry among them, and of an upload that nobody has finished."""
    client = make_client(s3_settings)
    for key in ("a", "a/hidden by MinIO", "odd & <key>"):
        client.put_object(Bucket=s3_bucket, Key=key, Body=b"")
    client.create_multipart_upload(Bucket=s3_bucket, Key="unfinished")
    empty_bucket(client, s3_bucket)
    assert [ref.key for page in list_pages(client, s3_bucket, "") for ref in page] == []
    assert "Uploads" not in client.list_multipart_uploads(Bucket=s3_bucket)


def test_a_bucket_is_gone_after_its_test(s3_settings: S3Settings) -> None:
    """Also when the test fails."""
    client = make_client(s3_settings)
    names = []

    def fail() -> None:
        with new_bucket(s3_settings) as name:
            names.append(name)
            client.put_object(Bucket=name, Key="left", Body=b"x")
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fail()
    with pytest.raises(ClientError) as caught:
        client.head_bucket(Bucket=names[0])
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_the_server_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """`INGEST_S3__*` name it, as for the service; without them the tests start their own."""
    given = {"ENDPOINT_URL": "http://s3.example:9000", "ACCESS_KEY_ID": "planted", "SECRET_ACCESS_KEY": "planted"}
    for name, value in given.items():
        monkeypatch.setenv(f"INGEST_S3__{name}", value)
    chosen = choose_s3(request)
    assert (chosen.endpoint_url, chosen.access_key_id) == ("http://s3.example:9000", SecretStr("planted"))
    for name in given:
        monkeypatch.delenv(f"INGEST_S3__{name}")
    assert choose_s3(request).endpoint_url == request.getfixturevalue("seaweedfs").url
