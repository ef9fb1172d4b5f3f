"""One suite for every StateStore: in a real S3 server, and in files."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ingestion_engine.adapters.connect import open_state_store
from ingestion_engine.adapters.local_files import LocalStateStore, file_to_path, path_to_file
from ingestion_engine.adapters.s3 import state_store as s3_state
from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.adapters.s3.state_store import S3StateStore
from ingestion_engine.domain.errors import FatalError, StateConflict, TransientError
from ingestion_engine.domain.ports import StateStore
from ingestion_engine.runtime.retry import RetryPolicy
from ingestion_engine.runtime.settings import S3Settings, Settings
from ingestion_engine.state.trial import try_operations
from support.answering import running

QUICK = RetryPolicy(first_s=0.01, longest_s=0.02, deadline_s=2.0)


@pytest.fixture(params=["s3", "s3 without a prefix", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    if request.param == "file":
        return LocalStateStore(f"file://{tmp_path}/state%20dir")
    prefix = "/some/state" if request.param == "s3" else ""
    url = f"s3://{request.getfixturevalue('s3_bucket')}{prefix}"
    return S3StateStore(request.getfixturevalue("s3_settings"), url)


def value(store: StateStore, path: str) -> bytes | None:
    stored = store.get(path)
    return None if stored is None else stored.data


class TestValues:
    """Reading and writing without conditions."""

    def test_put_get_delete(self, store: StateStore) -> None:
        """A value exists from put to delete; the last put wins; deleting an absent value is not an error."""
        assert store.get("jobs/a/spec.json") is None
        store.put("jobs/a/spec.json", b"one")
        store.put("jobs/a/spec.json", b"two")
        assert value(store, "jobs/a/spec.json") == b"two"
        store.delete("jobs/a/spec.json")
        store.delete("jobs/a/spec.json")
        assert store.get("jobs/a/spec.json") is None

    def test_empty_and_binary_values(self, store: StateStore) -> None:
        """Bytes are returned unchanged."""
        for data in (b"", bytes(range(256)), b"\n"):
            store.put("x", data)
            assert value(store, "x") == data

    def test_list_is_complete(self, store: StateStore) -> None:
        """A prefix is any string; paths are relative to the store; 1,003 of them are more than one page."""
        names = {f"jobs/j1/reports/{number:04d}" for number in range(1003)} | {
            "jobs/j1.json",
            "jobs/j10/x",
            "alias/a b.json",
        }
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.put(name, b"."), names))
        assert sorted(store.list("")) == sorted(names)
        assert sorted(store.list("jobs/j1")) == sorted(names - {"alias/a b.json"})
        assert list(store.list("jobs/j10")) == ["jobs/j10/x"]
        assert list(store.list("jobs/none/")) == []

    def test_ranges(self, store: StateStore) -> None:
        """Short at the end, empty behind it, an error for a missing value."""
        store.put("runs/r.parquet", b"0123456789")
        assert store.get_range("runs/r.parquet", 2, 3) == b"234"
        assert store.get_range("runs/r.parquet", 8, 10) == b"89"
        assert store.get_range("runs/r.parquet", 10, 5) == b""
        assert store.get_range("runs/r.parquet", 3, 0) == b""
        with pytest.raises(FatalError) as missing:
            store.get_range("runs/none", 0, 1)
        assert missing.value.code == "state_missing"

    def test_files(self, store: StateStore, tmp_path: Path) -> None:
        """An uploaded file replaces the value unchanged; the file is kept and no other is left beside it."""
        source = tmp_path / "source"
        source.write_bytes(os.urandom(3_000_000))
        store.put("big", b"old")
        store.upload("big", source)
        assert value(store, "big") == source.read_bytes()
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["source"]


class TestConditions:
    """Writes that depend on the current value."""

    def test_create_once(self, store: StateStore) -> None:
        """The second create conflicts, also with equal bytes, and changes nothing."""
        version = store.create("lease", b"one")
        for data in (b"two", b"one"):
            with pytest.raises(StateConflict):
                store.create("lease", data)
        stored = store.get("lease")
        assert stored is not None
        assert (stored.data, stored.version) == (b"one", version)

    def test_replace_only_the_version_that_was_read(self, store: StateStore) -> None:
        """Versions chain; a stale version or a missing value conflicts and changes nothing."""
        first = store.create("lease", b"one")
        second = store.replace("lease", b"two", first)
        with pytest.raises(StateConflict):
            store.replace("lease", b"three", first)
        stored = store.get("lease")
        assert stored is not None
        assert (stored.data, stored.version) == (b"two", second)
        store.put("lease", b"forced")
        with pytest.raises(StateConflict):
            store.replace("lease", b"three", second)
        store.delete("lease")
        with pytest.raises(StateConflict):
            store.replace("lease", b"three", second)
        assert store.get("lease") is None

    def test_one_of_many_creators_wins(self, store: StateStore) -> None:
        """Eight threads, one value: seven conflicts."""

        def try_create(number: int) -> bytes | None:
            data = b"%d" % number
            try:
                store.create("race", data)
            except StateConflict:
                return None
            return data

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            winners = [data for data in pool.map(try_create, range(8)) if data is not None]
        assert winners == [value(store, "race")]

    def test_no_update_is_lost(self, store: StateStore) -> None:
        """Four threads add ten each by read and replace: the sum is forty."""
        store.create("counter", b"0")

        def add_ten(_: int) -> None:
            for _ in range(10):
                while True:
                    stored = store.get("counter")
                    assert stored is not None
                    try:
                        store.replace("counter", b"%d" % (int(stored.data) + 1), stored.version)
                        break
                    except StateConflict:
                        continue

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(add_ten, range(4)))
        assert value(store, "counter") == b"40"


def test_everything_that_a_job_does_works(store: StateStore) -> None:
    """What is tried before a job begins succeeds on every store, and leaves nothing behind."""
    try_operations(store, "jobs/a/")
    assert list(store.list("")) == []


class TestS3Only:
    """Lost responses, refusals and large files."""

    def test_own_write_is_recognised_after_a_lost_response(self, s3_settings: S3Settings, s3_bucket: str) -> None:
        """The server applied the write and the connection broke: the retry conflicts with the call's own write."""
        with _losing_answers(s3_settings) as (proxied, lose):
            store = S3StateStore(proxied, f"s3://{s3_bucket}/p", retry=QUICK)
            lose(1)
            first = store.create("lease", b"mine")
            lose(2)
            second = store.replace("lease", b"mine again", first)
            stored = store.get("lease")
            assert stored is not None
            assert (stored.data, stored.version) == (b"mine again", second)

    def test_other_write_is_a_conflict_also_after_a_lost_response(
        self, s3_settings: S3Settings, s3_bucket: str
    ) -> None:
        """The stored bytes are of another writer."""
        with _losing_answers(s3_settings) as (proxied, lose):
            store = S3StateStore(proxied, f"s3://{s3_bucket}/p", retry=QUICK)
            store.create("lease", b"theirs")
            lose(1)
            with pytest.raises(StateConflict):
                store.create("lease", b"mine")
            assert value(store, "lease") == b"theirs"

    def test_absent_server_is_transient(self, s3_settings: S3Settings) -> None:
        """Retries end at the policy's deadline."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        away = s3_settings.model_copy(update={"endpoint_url": f"http://127.0.0.1:{port}"})
        store = S3StateStore(away, "s3://docs/p", retry=RetryPolicy(first_s=0.01, longest_s=0.01, deadline_s=0.05))
        with pytest.raises(TransientError):
            store.create("x", b"")

    def test_refusal_and_missing_bucket_are_fatal(self, s3_settings: S3Settings) -> None:
        """Each has its own code."""
        wrong = s3_settings.model_copy(update={"secret_access_key": SecretStr("wrong")})
        with pytest.raises(FatalError) as refused:
            S3StateStore(wrong, "s3://docs/p").create("x", b"")
        assert refused.value.code == "state_access_denied"
        with pytest.raises(FatalError) as missing:
            S3StateStore(s3_settings, "s3://no-such-bucket/p").get("x")
        assert missing.value.code == "state_bucket_missing"

    def test_large_files_are_uploaded_in_parts(
        self, s3_settings: S3Settings, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last part is short; the value equals the file."""
        monkeypatch.setattr(s3_state, "PART_BYTES", 5 * 1024 * 1024)
        source = tmp_path / "source"
        source.write_bytes(os.urandom(12 * 1024 * 1024 + 7))
        store = S3StateStore(s3_settings, f"s3://{s3_bucket}")
        store.upload("big", source)
        assert value(store, "big") == source.read_bytes()
        etag = make_client(s3_settings).head_object(Bucket=s3_bucket, Key="big")["ETag"]
        assert etag.strip('"').endswith("-3")

    def test_a_completion_without_response_is_found_complete(
        self, s3_settings: S3Settings, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client repeats the completion, S3 knows the upload no more, and the abort fails too: it has arrived."""
        store, source = _prepare_upload(s3_settings, s3_bucket, tmp_path, monkeypatch)
        complete = store._client.complete_multipart_upload

        def lose(**request: Any) -> None:
            complete(**request)
            raise _refusal(404, "NoSuchUpload", "CompleteMultipartUpload")

        store._client.complete_multipart_upload = lose
        store.upload("big", source)
        assert value(store, "big") == source.read_bytes()

    @pytest.mark.parametrize("abort_fails", [False, True])
    def test_an_upload_that_did_not_arrive_is_transient(
        self,
        s3_settings: S3Settings,
        s3_bucket: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        abort_fails: bool,
    ) -> None:
        """The old value stays, also one of the same size; no parts are left; a failing abort hides no error."""
        store, source = _prepare_upload(s3_settings, s3_bucket, tmp_path, monkeypatch)
        store.upload("big", source)
        old = source.read_bytes()
        source.write_bytes(old[::-1])

        def refuse(**_: Any) -> None:
            raise _refusal(404, "NoSuchUpload", "CompleteMultipartUpload")

        store._client.complete_multipart_upload = refuse
        if abort_fails:
            store._client.abort_multipart_upload = refuse
        with pytest.raises(TransientError) as failed:
            store.upload("big", source)
        assert "CompleteMultipartUpload" in failed.value.message
        assert value(store, "big") == old
        left = make_client(s3_settings).list_multipart_uploads(Bucket=s3_bucket).get("Uploads", [])
        assert bool(left) == abort_fails

    @pytest.mark.parametrize(
        ("status", "body"),
        [(404, b"default backend - 404"), (404, b""), (412, b"<html/>"), (409, b"no"), (200, b"<html>Hello</html>")],
    )
    def test_only_s3_tells_what_is_stored(self, status: int, body: bytes, tmp_path: Path) -> None:
        """What a proxy answers is neither an absent value, nor a conflict, nor a write that was applied."""

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the library's own names

            def log_message(self, *_: object) -> None: ...

        source = tmp_path / "source"
        source.write_bytes(b"x")
        with running(Handler) as url:
            settings = S3Settings(endpoint_url=url, access_key_id=SecretStr("any"), secret_access_key=SecretStr("any"))
            store = S3StateStore(settings, "s3://docs/p", retry=RetryPolicy(deadline_s=0.0))
            calls: list[Callable[[], Any]] = [
                lambda: store.get("x"),
                lambda: store.put("x", b""),
                lambda: store.create("x", b""),
                lambda: store.replace("x", b"", '"v"'),
                lambda: list(store.list("x")),
                lambda: store.upload("x", source),
            ]
            calls.append(lambda: store.get_range("x", 0, 1))
            if status != 200:
                calls.append(lambda: store.delete("x"))
            for call in calls:
                with pytest.raises(TransientError):
                    call()

    @pytest.mark.parametrize("url", ["s3:///prefix", "file:///x", "bucket/prefix"])
    def test_odd_urls_are_refused(self, s3_settings: S3Settings, url: str) -> None:
        """The message shows the valid form."""
        with pytest.raises(FatalError) as refused:
            S3StateStore(s3_settings, url)
        assert "s3://bucket/prefix" in refused.value.message


class TestDurability:
    """Values in files survive a power failure once the call has returned."""

    @pytest.mark.parametrize("kind", ["put", "create", "replace", "upload", "delete"])
    def test_content_name_and_folders_are_flushed(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A manifest is durable, so whatever it names must be: content before the name, then the folders."""
        store = LocalStateStore(f"file://{tmp_path}/state")
        source = tmp_path / "source"
        source.write_bytes(b"run")
        target = tmp_path / "state" / path_to_file("new/folder/value")
        version = store.create("new/folder/value", b"old") if kind in ("replace", "delete") else ""
        events: list[tuple[str, Path | int]] = []
        fsync, rename = os.fsync, Path.replace

        def note_fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            events.append(("flush", path if path.is_dir() else path.stat().st_ino))
            fsync(descriptor)

        def note_rename(self: Path, to: Path) -> Path:
            events.append(("name", self.stat().st_ino))
            return rename(self, to)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(Path, "replace", note_rename)
        calls: dict[str, Callable[[], Any]] = {
            "put": lambda: store.put("new/folder/value", b"x"),
            "create": lambda: store.create("new/folder/value", b"x"),
            "replace": lambda: store.replace("new/folder/value", b"x", version),
            "upload": lambda: store.upload("new/folder/value", source),
            "delete": lambda: store.delete("new/folder/value"),
        }
        calls[kind]()
        folders = [target.parents[2], target.parents[1]] if not version else []
        if kind == "delete":
            assert events == [("flush", target.parent)]
        else:
            written = target.stat().st_ino
            assert events == [
                *(("flush", folder) for folder in folders),
                ("flush", written),
                ("name", written),
                ("flush", target.parent),
            ]


class TestConnect:
    """The store of an address."""

    def test_by_scheme(self, s3_settings: S3Settings, tmp_path: Path) -> None:
        """The settings' own address is the default."""
        settings = Settings(s3=s3_settings, state_url=f"file://{tmp_path}/state")
        assert isinstance(open_state_store(settings), LocalStateStore)
        store = open_state_store(settings, "s3://docs/state/")
        assert isinstance(store, S3StateStore)
        assert store.url == "s3://docs/state"

    @pytest.mark.parametrize(
        ("url", "code"),
        [(None, "store_not_configured"), ("http://x/y", "state_url_invalid"), ("dir", "state_url_invalid")],
    )
    def test_no_address(self, url: str | None, code: str) -> None:
        """The hint names the setting."""
        with pytest.raises(FatalError) as refused:
            open_state_store(Settings(state_url=url))
        assert refused.value.code == code
        assert "INGEST_STATE_URL" in refused.value.hint


class TestFileNames:
    """File names of any path."""

    @given(st.text(max_size=300))
    def test_there_and_back(self, path: str) -> None:
        """The path can be restored, so the mapping is injective."""
        assert file_to_path(path_to_file(path)) == path

    @given(st.lists(st.text("./=%~aé\x00", max_size=12), max_size=6).map("/".join))
    def test_names_are_safe(self, path: str) -> None:
        """No name leaves the directory, is hidden or too long; a value is never the directory of another value."""
        file = path_to_file(path)
        assert not file.is_absolute()
        assert all(0 < len(part.encode()) <= 255 and not part.startswith(".") for part in file.parts)
        assert all(not part.endswith("=") for part in file.parts[:-1])
        assert file.name.endswith("=")

    def test_odd_url_is_refused(self) -> None:
        """A host or a relative path is refused."""
        for url in ("file://state/dir", "file:state", "s3://bucket"):
            with pytest.raises(FatalError):
                LocalStateStore(url)


def _prepare_upload(
    settings: S3Settings, bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[S3StateStore, Path]:
    """A state store, and a file that it uploads in two parts."""
    monkeypatch.setattr(s3_state, "PART_BYTES", 5 * 1024 * 1024)
    source = folder / "source"
    source.write_bytes(os.urandom(6 * 1024 * 1024))
    return S3StateStore(settings, f"s3://{bucket}"), source


def _refusal(status: int, code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)


@contextlib.contextmanager
def _losing_answers(settings: S3Settings) -> Iterator[tuple[S3Settings, Callable[[int], None]]]:
    """A proxy that forwards every request but drops the responses of a given number of PUTs."""
    assert settings.endpoint_url is not None
    target = urlsplit(settings.endpoint_url)
    to_lose = [0]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection((str(target.hostname), int(target.port or 80))) as upstream:
            is_put = [False]

            def forward() -> None:
                with contextlib.suppress(OSError):
                    while data := client.recv(65536):
                        if data[:4] in (b"PUT ", b"GET "):
                            is_put[0] = data.startswith(b"PUT ")
                        upstream.sendall(data)

            threading.Thread(target=forward, daemon=True).start()
            while answer := upstream.recv(65536):
                if is_put[0] and to_lose[0] and not answer.startswith(b"HTTP/1.1 100"):
                    to_lose[0] -= 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(answer)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    def lose(count: int) -> None:
        to_lose[0] = count

    threading.Thread(target=accept, daemon=True).start()
    port = listener.getsockname()[1]
    try:
        yield settings.model_copy(update={"endpoint_url": f"http://127.0.0.1:{port}"}), lose
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
