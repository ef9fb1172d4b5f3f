"""One suite for every ObjectSource: a real S3 server and the reference on a directory."""

from __future__ import annotations

import errno
import io
import socket
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from pydantic import SecretStr

from ingestion_engine.adapters.local_files import LocalSource
from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.listing import is_plain
from ingestion_engine.adapters.s3.source import PIECE_BYTES, S3Source
from ingestion_engine.domain.errors import FatalError, ObjectError, ObjectGone, TransientError
from ingestion_engine.domain.ports import ObjectSource
from ingestion_engine.domain.records import ObjectRef, RawObject
from ingestion_engine.runtime.settings import S3Settings
from support.answering import running

LIMIT = 1_000_000


def _listing(truncated: str, rest: str) -> bytes:
    return f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{rest}</ListBucketResult>".encode()


NFC = unicodedata.normalize("NFC", "ü.txt")
NFD = unicodedata.normalize("NFD", "ü.txt")
KEYS = [
    *["plain.txt", "a b.txt", "a+b", "a%b", "a%20b", "a%2Fb", "%", "%%41", NFC, NFD, "Case", "case", "end ", " lead"],
    *[".hidden", "...", "x/.../y", "a/ /b", "\u00a0nb", "\u200b", "tab\tx", "new\nline", "\x01ctl", "\x7fdel"],
    *["q?x=1&y", "hash#x", "semi;x", "quote'\"x", "curly{}|^`~", "*[x]", "<lt>", "a:b,c=d@e$f!", "日本/語", "emoji😀"],
    "deep/" * 20 + "x",
]
"""Names that servers and clients like to change. (SeaweedFS itself folds `//` and `\\` into `/` and refuses `./`.)"""


class World(Protocol):
    """A source, and a function that writes objects where it reads."""

    source: ObjectSource
    bucket: str

    def write(self, key: str, body: bytes, content_type: str | None = None, **metadata: str) -> None: ...
    def remove(self, key: str) -> None: ...


@dataclass
class S3World:
    source: ObjectSource
    bucket: str
    client: Any

    def write(self, key: str, body: bytes, content_type: str | None = None, **metadata: str) -> None:
        extra = {"ContentType": content_type} if content_type else {}
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, Metadata=metadata, **extra)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)


@dataclass
class LocalWorld:
    source: LocalSource
    bucket: str

    def write(self, key: str, body: bytes, content_type: str | None = None, **metadata: str) -> None:
        self.source.write(self.bucket, key, body, content_type=content_type, metadata=metadata)

    def remove(self, key: str) -> None:
        self.source.remove(self.bucket, key)


@pytest.fixture(params=["s3", "local"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "local":
        (tmp_path / "box").mkdir()
        yield LocalWorld(LocalSource(tmp_path), "box")
        return
    settings = request.getfixturevalue("s3_settings")
    source = S3Source(settings)
    yield S3World(source, request.getfixturevalue("s3_bucket"), make_client(settings))
    await source.close()


def listed(world: World, prefix: str = "") -> dict[str, ObjectRef]:
    refs = list(world.source.list_objects(world.bucket, prefix))
    found = {ref.key: ref for ref in refs}
    assert len(found) == len(refs), "a key was listed twice"
    return found


class TestListing:
    """Entries of a listing."""

    def test_every_key_is_listed_unchanged(self, world: World) -> None:
        """No character of a key is changed on its way through XML, URLs or file names."""
        for key in KEYS:
            world.write(key, key.encode())
        found = listed(world)
        assert sorted(found) == sorted(KEYS)
        assert all(ref.size_bytes == len(key.encode()) for key, ref in found.items())

    def test_entry_is_complete(self, world: World) -> None:
        """The etag has no quotes, the time is RFC 3339 in whole seconds of UTC."""
        world.write("a.txt", b"hello")
        ref = listed(world)["a.txt"]
        assert (ref.bucket, ref.size_bytes, ref.uri) == (world.bucket, 5, f"s3://{world.bucket}/a.txt")
        assert ref.etag == "5d41402abc4b2a76b9719d911017c592"
        assert len(ref.last_modified) == 20
        assert ref.last_modified.endswith("Z")

    def test_prefix_is_bytes_not_a_folder(self, world: World) -> None:
        """`ab` is a prefix of `abc` and of `ab/c`; a prefix may be any string."""
        for key in ("ab/c", "abc", "a", "b/ab", "a b%/c", "a b%/d/e"):
            world.write(key, b"x")
        assert sorted(listed(world, "ab")) == ["ab/c", "abc"]
        assert sorted(listed(world, "a b%/")) == ["a b%/c", "a b%/d/e"]
        assert listed(world, "zzz") == {}
        assert len(listed(world)) == 6

    def test_more_than_one_page(self, world: World) -> None:
        """1,005 keys are two pages; none is lost between them."""
        for number in range(1005):
            world.write(f"many/{number:04d}", b"")
        assert len(listed(world, "many/")) == 1005

    def test_missing_bucket_is_fatal(self, world: World) -> None:
        """Both the check and a listing name the missing bucket."""
        world.source.check_bucket(world.bucket)
        with pytest.raises(FatalError) as check:
            world.source.check_bucket("no-such-bucket")
        with pytest.raises(FatalError) as listing:
            list(world.source.list_objects("no-such-bucket", ""))
        assert {check.value.code, listing.value.code} == {"bucket_not_found"}
        assert "no-such-bucket" in check.value.message


class Fetch(Protocol):
    """One of the two ways to read an object."""

    async def __call__(self, source: ObjectSource, ref: ObjectRef, *, max_bytes: int) -> RawObject: ...


async def fetch_whole(source: ObjectSource, ref: ObjectRef, *, max_bytes: int) -> RawObject:
    return await source.fetch(ref, max_bytes=max_bytes)


async def fetch_file(source: ObjectSource, ref: ObjectRef, *, max_bytes: int) -> RawObject:
    """Read into a file that already has content, as after a client that failed."""
    file = io.BytesIO(b"what an earlier try left " * 100)
    head = await source.fetch_into(ref, file, max_bytes=max_bytes)
    return RawObject(head.ref, file.getvalue(), head.content_type, head.metadata)


@pytest.fixture(params=[fetch_whole, fetch_file], ids=["whole", "file"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    return request.param


class TestFetch:
    """Results of reading an object."""

    async def test_every_key_can_be_read(self, world: World, fetch: Fetch) -> None:
        """The body belongs to the key, with either client."""
        for key in KEYS:
            world.write(key, key.encode())
        for key, ref in listed(world).items():
            raw = await fetch(world.source, ref, max_bytes=LIMIT)
            assert (raw.body, raw.ref) == (key.encode(), ref)

    async def test_headers_are_returned(self, world: World, fetch: Fetch) -> None:
        """Content type and user metadata are the object's own, with both ways of reading."""
        for key in ("plain", "odd\tkey"):
            world.write(key, b"x", "text/x-strange", team="docs", content="none")
            raw = await fetch(world.source, listed(world)[key], max_bytes=LIMIT)
            assert raw.content_type == "text/x-strange"
            assert raw.metadata == {"team": "docs", "content": "none"}

    async def test_empty_object(self, world: World, fetch: Fetch) -> None:
        """Zero bytes are a body."""
        world.write("empty", b"")
        assert (await fetch(world.source, listed(world)["empty"], max_bytes=LIMIT)).body == b""

    @pytest.mark.parametrize("key", ["plain", "odd\tkey"])
    async def test_changed_object_is_read_whole_in_its_new_version(self, world: World, fetch: Fetch, key: str) -> None:
        """The record has etag and size of the version that was read."""
        world.write(key, b"old")
        ref = listed(world)[key]
        world.write(key, b"newer")
        raw = await fetch(world.source, ref, max_bytes=LIMIT)
        assert (raw.body, raw.ref.size_bytes) == (b"newer", 5)
        assert raw.ref.etag == listed(world)[key].etag != ref.etag

    @pytest.mark.parametrize("key", ["plain", "odd\tkey"])
    async def test_removed_object_is_gone(self, world: World, fetch: Fetch, key: str) -> None:
        """The points of a removed object are removed, so the error has its own type."""
        world.write(key, b"x")
        ref = listed(world)[key]
        assert await world.source.exists(world.bucket, key)
        world.remove(key)
        with pytest.raises(ObjectGone):
            await fetch(world.source, ref, max_bytes=LIMIT)
        assert not await world.source.exists(world.bucket, key)

    async def test_existence(self, world: World) -> None:
        """An empty object exists; a prefix of a key does not; a missing bucket is not a missing object."""
        world.write("folder/empty", b"")
        assert await world.source.exists(world.bucket, "folder/empty")
        assert not await world.source.exists(world.bucket, "folder/emp")
        with pytest.raises(FatalError):
            await world.source.exists("no-such-bucket", "folder/empty")

    @pytest.mark.parametrize("key", ["plain", "odd\tkey"])
    async def test_size_limit(self, world: World, fetch: Fetch, key: str) -> None:
        """The limit itself is allowed; a version that grew after the listing is refused too."""
        world.write(key, b"12345")
        ref = listed(world)[key]
        assert (await fetch(world.source, ref, max_bytes=5)).body == b"12345"
        with pytest.raises(ObjectError) as listed_size:
            await fetch(world.source, ref, max_bytes=4)
        world.write(key, b"1234567")
        with pytest.raises(ObjectError) as grown:
            await fetch(world.source, ref, max_bytes=5)
        assert {listed_size.value.code, grown.value.code} == {"object_too_large"}


class TestS3Only:
    """Servers that refuse access, fail or respond unexpectedly."""

    async def test_wrong_credentials_are_fatal(self, s3_settings: S3Settings, s3_bucket: str) -> None:
        """The identity is refused, which does not concern a single object, so the job stops."""
        wrong = s3_settings.model_copy(update={"secret_access_key": SecretStr("not" + s3_bucket)})
        source = S3Source(wrong)
        ref = ObjectRef(s3_bucket, "x", "", 1, "2026-01-01T00:00:00Z")
        for call in (lambda: source.check_bucket(s3_bucket), lambda: list(source.list_objects(s3_bucket, ""))):
            with pytest.raises(FatalError) as refused:
                call()
            assert refused.value.code == "bucket_access_denied"
        with pytest.raises(FatalError) as refused:
            await source.fetch(ref, max_bytes=LIMIT)
        assert refused.value.code == "bucket_access_denied"
        assert wrong.secret_access_key is not None
        assert wrong.secret_access_key.get_secret_value() not in repr(refused.value.record())
        await source.close()

    async def test_absent_server_is_transient(self, s3_settings: S3Settings) -> None:
        """A refused connection is retried."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        source = S3Source(s3_settings.model_copy(update={"endpoint_url": f"http://127.0.0.1:{port}"}))
        with pytest.raises(TransientError):
            source.check_bucket("docs")
        with pytest.raises(TransientError):
            await source.fetch(ObjectRef("docs", "x", "", 1, ""), max_bytes=LIMIT)
        with pytest.raises(TransientError):
            await source.exists("docs", "x")
        await source.close()

    async def test_plain_keys_need_no_thread(self, s3_settings: S3Settings, s3_bucket: str) -> None:
        """Obstore reads what it can address; botocore only lists, and reads the one odd key."""
        source = S3Source(s3_settings)
        calls: list[str] = []
        client = make_client(s3_settings)
        keys = ["plain", "a b/%41 ü.txt", "odd\tkey"]
        for key in keys:
            client.put_object(Bucket=s3_bucket, Key=key, Body=b"x")
        source._client.meta.events.register("before-call.s3.*", lambda model, **_: calls.append(model.name))
        for ref in list(source.list_objects(s3_bucket, "")):
            await source.fetch(ref, max_bytes=LIMIT)
        await source.close()
        assert sorted(calls) == ["GetObject", "ListObjectsV2"]

    @pytest.mark.parametrize("key", ["plain", "odd\tkey"])
    async def test_a_full_disk_is_reported_as_such(self, s3_settings: S3Settings, s3_bucket: str, key: str) -> None:
        """It is neither an outage of S3 nor an unreadable object, with either client."""

        class FullDisk(io.BytesIO):
            def write(self, piece: Any) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        make_client(s3_settings).put_object(Bucket=s3_bucket, Key=key, Body=b"x")
        source = S3Source(s3_settings)
        (ref,) = source.list_objects(s3_bucket, "")
        with pytest.raises(OSError, match="No space left"):
            await source.fetch_into(ref, FullDisk(), max_bytes=LIMIT)
        await source.close()

    @pytest.mark.parametrize("key", ["plain", "odd\tkey"])
    async def test_a_large_body_reaches_the_file_in_order(
        self, s3_settings: S3Settings, s3_bucket: str, key: str
    ) -> None:
        """It is written in several pieces, with either client."""
        body = b"".join(number.to_bytes(4, "big") for number in range(3 * PIECE_BYTES // 4 + 7))
        make_client(s3_settings).put_object(Bucket=s3_bucket, Key=key, Body=body)
        source = S3Source(s3_settings)
        (ref,) = source.list_objects(s3_bucket, "")
        assert (await fetch_file(source, ref, max_bytes=len(body))).body == body
        await source.close()

    async def test_metadata_beyond_ascii(self, s3_settings: S3Settings, s3_bucket: str) -> None:
        """Raw UTF-8 and RFC 2047 words become text; percent-encoding is a client's own convention and is kept."""
        sent = {"raw": "grün", "words": "=?UTF-8?B?w6TDtg==?=", "percent": "%C3%A4", "broken": "=?UTF-8?B?w6?="}
        for name, value in sent.items():
            _put_raw(s3_settings, f"/{s3_bucket}/{name}", {f"x-amz-meta-{name}": value})
        source = S3Source(s3_settings)
        refs = {ref.key: ref for ref in source.list_objects(s3_bucket, "")}
        got = {name: (await source.fetch(refs[name], max_bytes=LIMIT)).metadata for name in sent}
        await source.close()
        assert got["raw"] == {"raw": "grün"}
        assert got["words"] == {"words": "äö"}
        assert got["percent"] == {"percent": "%C3%A4"}
        assert got["broken"].keys() == {"broken"}

    async def test_one_forbidden_object_is_skipped(self) -> None:
        """The bucket may be listed but the object may not be read: it is recorded, and the job continues."""
        listed = _page("docs", "secret", "secret")
        with _serving({"/docs/secret": (403, _error("AccessDenied")), "/docs": (200, listed)}) as settings:
            source = S3Source(settings)
            with pytest.raises(ObjectError) as refused:
                await source.fetch(ObjectRef("docs", "secret", "e", 1, ""), max_bytes=LIMIT)
            assert (refused.value.code, refused.value.context["key"]) == ("object_unreadable", "secret")
            assert refused.value.retryable, "the object is tried again when access may have been granted"
            await source.close()

    async def test_everything_forbidden_is_fatal(self) -> None:
        """The same 403, but for the bucket too: permissions changed during the job."""
        with _serving({"/docs": (403, _error("AccessDenied"))}) as settings:
            source = S3Source(settings)
            with pytest.raises(FatalError) as refused:
                await source.fetch(ObjectRef("docs", "any", "e", 1, ""), max_bytes=LIMIT)
            assert refused.value.code == "bucket_access_denied"
            await source.close()

    async def test_listings_of_different_servers_are_read(self) -> None:
        """With and without a namespace, URL encoding, milliseconds, another time zone, an etag."""
        entry = "<Contents><Key>{}</Key><LastModified>{}</LastModified>{}<Size>7</Size></Contents>"
        page = (
            "<ListBucketResult{}><EncodingType>{}</EncodingType><IsTruncated>false</IsTruncated>"
            + entry.format("a%2Bb+c", "2026-01-02T03:04:05.678Z", '<ETag>"e1"</ETag>')
            + entry.format("d", "2026-01-02T05:04:05+02:00", "")
            + "</ListBucketResult>"
        )
        for namespace in ("", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'):
            with _serving({"/docs": (200, page.format(namespace, "url").encode())}) as settings:
                source = S3Source(settings)
                assert list(source.list_objects("docs", "")) == [
                    ObjectRef("docs", "a+b c", "e1", 7, "2026-01-02T03:04:05Z"),
                    ObjectRef("docs", "d", "", 7, "2026-01-02T03:04:05Z"),
                ]
                await source.close()
        with _serving({"/docs": (200, page.format("", "none").encode())}) as settings:
            source = S3Source(settings)
            assert [ref.key for ref in source.list_objects("docs", "")] == ["a%2Bb+c", "d"]
            await source.close()

    @pytest.mark.parametrize(
        "page",
        [
            b"<ListBucketResult><Contents><Key>a</Key><Size>7</Size></Contents></ListBucketResult>",
            b"<ListBucketResult><Contents><Key>a</Key>",
            b"<html>Welcome</html><p>",
            b"<html><body>Welcome</body></html>",
            b"",
            b"<Error><Code>InternalError</Code></Error>",
            b"<ListBucketResult><Name>docs</Name></ListBucketResult>",
            b"<ListBucketResult><Name>docs</Name><IsTruncated>true</IsTruncated></ListBucketResult>",
            b"<ListBucketResult><Name>other</Name><Prefix/><IsTruncated>false</IsTruncated></ListBucketResult>",
            b"<ListBucketResult><Name>docs</Name><Prefix>b/</Prefix><IsTruncated>false</IsTruncated></ListBucketResult>",
            _listing("true", "<NextContinuationToken>t</NextContinuationToken>"),
            _listing("false", "<Contents><Key>a</Key><Size>x</Size><LastModified>2026</LastModified></Contents>"),
        ],
        ids=[
            *["no-time", "cut-short", "not-xml", "a-web-page", "empty", "another-document", "perhaps-cut", "no-token"],
            *["another-bucket", "another-prefix", "the-same-page-again", "no-size"],
        ],
    )
    async def test_a_listing_that_cannot_be_read_is_transient(self, page: bytes) -> None:
        """No entry is skipped silently, and nothing but S3's own listing says that there are no more."""
        with _serving({"/docs": (200, page)}) as settings:
            source = S3Source(settings)
            with pytest.raises(TransientError):
                list(source.list_objects("docs", ""))
            await source.close()

    @pytest.mark.parametrize("key", ["plain", "odd\tkey"])
    @pytest.mark.parametrize(
        "body",
        [b"default backend - 404", b"<html><body>Not found</body></html>", b"", b"<Error><Code/></Error>"],
        ids=["text", "html", "nothing", "no-code"],
    )
    async def test_only_s3_says_that_an_object_is_gone(self, fetch: Fetch, key: str, body: bytes) -> None:
        """A proxy without a route answers 404 too; taking its word would remove the points of every object."""
        with _serving({"/docs": (404, body)}) as settings:
            source = S3Source(settings)
            with pytest.raises(TransientError):
                await fetch(source, ObjectRef("docs", key, "e", 1, ""), max_bytes=LIMIT)
            with pytest.raises(TransientError):
                await source.exists("docs", key)
            with pytest.raises(TransientError) as of_bucket:
                source.check_bucket("docs")
            assert "INGEST_S3__ENDPOINT_URL" in of_bucket.value.hint
            await source.close()

    @pytest.mark.parametrize("key", ["plain", "odd\tkey"])
    async def test_a_page_in_place_of_a_body_is_not_the_object(self, fetch: Fetch, key: str) -> None:
        """A proxy that shows a web page with status 200 has neither etag nor time."""
        with _serving({"/docs": (200, b"<html>Please log in</html>")}) as settings:
            source = S3Source(settings)
            with pytest.raises(TransientError):
                await fetch(source, ObjectRef("docs", key, "e", 1, ""), max_bytes=LIMIT)
            await source.close()

    @pytest.mark.parametrize("key", ["gone", "secret"])
    @pytest.mark.parametrize("may_list", ["in/gone in/secret in/", "in/", ""])
    async def test_an_account_that_may_list_one_prefix(self, key: str, may_list: str) -> None:
        """S3 tells it 403 for a missing object; the listing tells whether it is missing, only denied, or unknown."""
        forbidden = _error("AccessDenied")

        def answer(path: str, query: dict[str, str]) -> tuple[int, bytes]:
            prefix = query.get("prefix", "")
            if path != "/docs" or prefix not in may_list.split():
                return 403, forbidden
            return 200, _page("docs", prefix, *([prefix] if prefix == "in/secret" else []))

        with _answering(answer) as settings:
            source = S3Source(settings, prefix="in/")
            ref = ObjectRef("docs", f"in/{key}", "e", 1, "")
            expected: type[Exception] = ObjectError
            if not may_list:
                expected = FatalError
            elif key == "gone" and "gone" in may_list:
                expected = ObjectGone
            with pytest.raises(expected) as refused:
                await source.fetch(ref, max_bytes=LIMIT)
            assert isinstance(refused.value, ObjectGone) == (expected is ObjectGone)
            if expected is ObjectGone:
                assert not await source.exists("docs", ref.key)
            else:
                with pytest.raises(expected):
                    await source.exists("docs", ref.key)
            if may_list:
                source.check_bucket("docs", "in/")
            with pytest.raises(FatalError) as whole:
                source.check_bucket("docs")
            assert (whole.value.code, "s3:ListBucket" in whole.value.hint) == ("bucket_access_denied", True)
            await source.close()

    async def test_archived_object_is_skipped(self) -> None:
        """InvalidObjectState concerns one object."""
        with _serving({"/docs/cold": (403, _error("InvalidObjectState")), "/docs": (200, _EMPTY_LIST)}) as settings:
            source = S3Source(settings)
            with pytest.raises(ObjectError) as refused:
                await source.fetch(ObjectRef("docs", "cold", "e", 1, ""), max_bytes=LIMIT)
            assert refused.value.code == "object_unreadable"
            await source.close()


@pytest.mark.parametrize("key", ["", "/", "/a", "a/", "a//b", "./a", "a/./b", "a/..", "..", "a\nb", "\x7f"])
def test_keys_that_obstore_would_alter_are_not_plain(key: str) -> None:
    """These go to botocore."""
    assert not is_plain(key)


def _put_raw(settings: S3Settings, path: str, headers: Mapping[str, str]) -> None:
    """A signed PUT with header values that botocore would refuse to send."""
    credentials = make_client(settings)._request_signer._credentials
    request = AWSRequest("PUT", f"{settings.endpoint_url}{path}", data=b"x", headers=dict(headers))
    S3SigV4Auth(credentials, "s3", settings.region).add_auth(request)
    signed = {name: value.encode() if isinstance(value, str) else value for name, value in request.headers.items()}
    answer = httpx.put(f"{settings.endpoint_url}{path}", content=b"x", headers=signed)
    assert answer.status_code == 200, answer.text


_EMPTY_LIST = (
    b"<ListBucketResult><Name>docs</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
)


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def _page(bucket: str, prefix: str, *keys: str) -> bytes:
    """A complete listing."""
    entry = "<Contents><Key>{}</Key><LastModified>2026-01-02T03:04:05Z</LastModified><Size>7</Size></Contents>"
    entries = "".join(entry.format(key) for key in keys)
    head = f"<Name>{bucket}</Name><Prefix>{prefix}</Prefix><IsTruncated>false</IsTruncated>"
    return f"<ListBucketResult>{head}{entries}</ListBucketResult>".encode()


@contextmanager
def _serving(answers: Mapping[str, tuple[int, bytes]]) -> Iterator[S3Settings]:
    """A server with fixed responses by path prefix, for cases that SeaweedFS cannot produce."""

    def answer(path: str, _query: dict[str, str]) -> tuple[int, bytes]:
        return next(response for prefix, response in answers.items() if path.startswith(prefix))

    with _answering(answer) as settings:
        yield settings


@contextmanager
def _answering(answer: Callable[[str, dict[str, str]], tuple[int, bytes]]) -> Iterator[S3Settings]:
    """A server whose responses are a function of path and query."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body = answer(parts.path, dict(parse_qsl(parts.query)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with running(Handler) as url:
        yield S3Settings(endpoint_url=url, access_key_id=SecretStr("any"), secret_access_key=SecretStr("thing"))
