"""Reference implementations on a directory: what the ports mean, in plain file operations.

``LocalStateStore`` also serves as the state store of one machine (``file:///dir``). ``LocalSource`` is for tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit

import orjson

from ingestion_engine.domain.errors import (
    FatalError,
    ObjectError,
    ObjectGone,
    StateConflict,
    StateMissing,
    TransientError,
)
from ingestion_engine.domain.ports import Stored
from ingestion_engine.domain.records import ObjectHead, ObjectRef, RawObject
from ingestion_engine.runtime.timestamps import timestamp_now

PIECE_CHARS = 200
"""Longest piece of a name; file systems allow 255 bytes."""
FILE_MARK, EMPTY_MARK, PIECE_MARK = "=", "=e", "=c"
"""Percent-encoded segments never contain ``=``, so marked names cannot be mistaken for segments."""


def path_to_file(path: str) -> Path:
    """Return the relative file of any string. Pure, injective, and stays below the directory it is put under.

    Slashes become directories; a value and a directory may share a name, since files end in ``=``.
    """
    *folders, last = path.split("/")
    parts: list[str] = []
    for folder in folders:
        *pieces, end = _split(folder)
        parts += [piece + PIECE_MARK for piece in pieces]
        parts.append(end or EMPTY_MARK)
    *pieces, end = _split(last)
    return Path(*parts, *(piece + PIECE_MARK for piece in pieces), end + FILE_MARK)


def _split(segment: str) -> list[str]:
    encoded = quote(segment, safe="", errors="surrogatepass")
    if encoded.startswith("."):  # neither hidden nor "." nor ".."
        encoded = f"%2E{encoded[1:]}"
    return [encoded[at : at + PIECE_CHARS] for at in range(0, len(encoded), PIECE_CHARS)] or [""]


def file_to_path(file: Path) -> str:
    """The inverse of ``path_to_file``. Pure."""
    *folders, last = file.parts
    encoded = ""
    for folder in folders:
        encoded += folder.removesuffix(PIECE_MARK) if folder.endswith(PIECE_MARK) else f"{_unmark(folder)}/"
    return unquote(encoded + last.removesuffix(FILE_MARK), errors="surrogatepass")


def _unmark(folder: str) -> str:
    return "" if folder == EMPTY_MARK else folder


def write_whole(target: Path, data: bytes) -> None:
    """Put a file in place at once; readers see the old or the new one. Durable when it returns."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(target)
    finally:
        Path(partial).unlink(missing_ok=True)


def walk_files(root: Path, prefix: str) -> Iterator[Path]:
    """Yield the files, relative to ``root``, whose path may start with a prefix; other directories are not read."""
    start = root / path_to_file(prefix).parent
    while not start.is_dir() and start != root:  # a prefix may end inside a piece
        start = start.parent
    for folder, _, names in os.walk(start):
        for name in names:
            if name.endswith(FILE_MARK) and not name.startswith("."):
                yield (Path(folder) / name).relative_to(root)


@contextlib.contextmanager
def file_errors(root: Path) -> Iterator[None]:
    """Raise the operating system's errors as the product's: permissions are fatal, a full or absent disk may pass."""
    try:
        yield
    except PermissionError as error:
        raise FatalError("state_access_denied", f"{root}: {error.strerror}", root=str(root)) from error
    except OSError as error:
        raise TransientError("state_unavailable", f"{root}: {error.strerror}", root=str(root)) from error


class LocalStateStore:
    """Values as files; a version is the hash of the content, as an etag is. Safe to share by threads and processes.

    Every change happens under one lock file, which makes compare-and-write atomic on a local file system (not on NFS).
    """

    def __init__(self, url: str) -> None:
        """Make the directory of ``file:///dir`` where it is missing.

        Raises:
            FatalError: "state_url_invalid", "state_access_denied".
        """
        parts = urlsplit(url)
        if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
            raise FatalError("state_url_invalid", f"{url!r} is not of the form file:///dir", url=url)
        self.url = url.rstrip("/")
        self._root = Path(unquote(parts.path))
        with file_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)

    def get(self, path: str) -> Stored | None:
        """Return a value, or None when absent."""
        with file_errors(self._root):
            try:
                data = self._file(path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Stored(data, _hash(data))

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer where the value ends before.

        Raises StateMissing.
        """
        with file_errors(self._root):
            try:
                with self._file(path).open("rb") as file:
                    file.seek(start)
                    return file.read(max(length, 0))
            except FileNotFoundError as error:
                raise self._missing(path) from error

    def put(self, path: str, data: bytes) -> None:
        """Write a value, whatever was there."""
        with self._changing():
            write_whole(self._file(path), data)

    def create(self, path: str, data: bytes) -> str:
        """Write a value that must not exist yet; return its version. Raises StateConflict when it does."""
        with self._changing():
            if self._file(path).exists():
                raise StateConflict("state_conflict", f"{self.url}/{path} exists already", path=path)
            write_whole(self._file(path), data)
        return _hash(data)

    def replace(self, path: str, data: bytes, version: str) -> str:
        """Write a value over exactly this version; return the new one. Raises StateConflict when it is another."""
        with self._changing():
            file = self._file(path)
            if not file.exists() or _hash(file.read_bytes()) != version:
                raise StateConflict("state_conflict", f"{self.url}/{path} is not the version that was read", path=path)
            write_whole(file, data)
        return _hash(data)

    def delete(self, path: str) -> None:
        """Remove a value; no error when absent."""
        with self._changing():
            self._file(path).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield all paths that start with a prefix, in no particular order. Streams."""
        with file_errors(self._root):
            for file in walk_files(self._root, prefix):
                path = file_to_path(file)
                if path.startswith(prefix):
                    yield path

    def download(self, path: str, target: Path) -> None:
        """Copy a value to a file. Raises StateMissing."""
        with file_errors(self._root):
            try:
                shutil.copyfile(self._file(path), target)
            except FileNotFoundError as error:
                raise self._missing(path) from error

    def upload(self, path: str, source: Path) -> None:
        """Copy a file to a value, whatever was there."""
        with self._changing():
            target = self._file(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.part")
            shutil.copyfile(source, partial)
            partial.replace(target)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with file_errors(self._root), (self._root / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _file(self, path: str) -> Path:
        return self._root / path_to_file(path)

    def _missing(self, path: str) -> StateMissing:
        return StateMissing("state_missing", f"{self.url}/{path} does not exist", path=path)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class LocalSource:
    """Buckets as directories. A file holds one line of JSON (content type, metadata, time) and then the body."""

    def __init__(self, root: Path) -> None:
        """``root`` holds one directory per bucket."""
        self._root = root

    def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectRef:
        """Put an object, making its bucket where it is missing; return what a listing will show."""
        moment = timestamp_now()
        header = orjson.dumps({"content_type": content_type, "metadata": dict(metadata or {}), "last_modified": moment})
        write_whole(self._file(bucket, key), header + b"\n" + body)
        return ObjectRef(bucket, key, hashlib.md5(body, usedforsecurity=False).hexdigest(), len(body), moment)

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object; no error when absent."""
        self._file(bucket, key).unlink(missing_ok=True)

    def check_bucket(self, bucket: str) -> None:
        """Return when the bucket exists. Raises FatalError ("bucket_not_found")."""
        if not (self._root / bucket).is_dir():
            raise FatalError("bucket_not_found", f"the bucket {bucket} does not exist", bucket=bucket)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        """Yield every object under a prefix in the byte order of keys, as S3 does. Reads every file."""
        self.check_bucket(bucket)
        keys = (file_to_path(file) for file in walk_files(self._root / bucket, prefix))
        for key in sorted((key for key in keys if key.startswith(prefix)), key=str.encode):
            with contextlib.suppress(FileNotFoundError):  # removed while we list
                yield self._read(bucket, key).ref

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        """Read one object whole, the newest version. Raises ObjectGone, ObjectError ("object_too_large")."""
        try:
            raw = await asyncio.to_thread(self._read, ref.bucket, ref.key)
        except FileNotFoundError as error:
            raise ObjectGone("object_gone", f"{ref.uri} does not exist any more", key=ref.key) from error
        if max(raw.ref.size_bytes, ref.size_bytes) > max_bytes:
            raise ObjectError("object_too_large", f"{ref.uri} has more than {max_bytes} bytes", key=ref.key)
        return raw

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        """Read one object into a file, whatever was in it; raises as ``fetch``, and OSError. Memory of the object."""
        raw = await self.fetch(ref, max_bytes=max_bytes)
        file.seek(0)
        file.truncate()
        await asyncio.to_thread(file.write, raw.body)
        return ObjectHead(raw.ref, raw.content_type, raw.metadata)

    async def exists(self, bucket: str, key: str) -> bool:
        """True when the object is there now. Raises FatalError ("bucket_not_found")."""
        self.check_bucket(bucket)
        return await asyncio.to_thread(self._file(bucket, key).exists)

    async def close(self) -> None:
        """Nothing to release."""

    def _file(self, bucket: str, key: str) -> Path:
        return self._root / bucket / path_to_file(key)

    def _read(self, bucket: str, key: str) -> RawObject:
        header, _, body = self._file(bucket, key).read_bytes().partition(b"\n")
        facts = orjson.loads(header)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        ref = ObjectRef(bucket, key, etag, len(body), facts["last_modified"])
        return RawObject(ref, body, facts["content_type"], facts["metadata"])
