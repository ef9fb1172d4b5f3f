"""Object source and state store on a directory: the reference implementations of these ports.

``LocalStateStore`` also is the state store of a single machine (``file:///dir``). ``LocalSource`` is for tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
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
"""Maximum length of one piece of a name; file systems allow 255 bytes."""
FILE_MARK, EMPTY_MARK, PIECE_MARK = "=", "=e", "=c"
"""Suffixes of names. Percent-encoded segments never contain ``=``, so a marked name is never a plain segment."""


def path_to_file(path: str) -> Path:
    """Return a relative file for any string. Pure and injective; the file is always below the parent directory.

    Slashes become directories; a value and a directory may share a name because files end in ``=``.
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
    """Return the string that ``path_to_file`` made a file of. Pure."""
    *folders, last = file.parts
    encoded = ""
    for folder in folders:
        encoded += folder.removesuffix(PIECE_MARK) if folder.endswith(PIECE_MARK) else f"{_unmark(folder)}/"
    return unquote(encoded + last.removesuffix(FILE_MARK), errors="surrogatepass")


def _unmark(folder: str) -> str:
    return "" if folder == EMPTY_MARK else folder


def write_whole(target: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old or the new content. Durable when it returns."""
    replace_file(target, lambda file: file.write(data))


def replace_file(target: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file as ``write_whole`` does, with the content that ``fill`` writes.

    Durable when it returns: the content, the name and the folders above it. Cost: two or more flushes to the disk.
    """
    make_folder(target.parent)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(target)
        sync_folder(target.parent)
    finally:
        Path(partial).unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, durably; an existing folder is not an error."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a new name survives a power failure only when its folder was flushed too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walk_files(root: Path, prefix: str) -> Iterator[Path]:
    """Yield files, relative to ``root``, that may have a path with this prefix; other directories are not read."""
    start = root / path_to_file(prefix).parent
    while not start.is_dir() and start != root:  # a prefix may end inside a piece
        start = start.parent
    for folder, _, names in os.walk(start):
        for name in names:
            if name.endswith(FILE_MARK) and not name.startswith("."):
                yield (Path(folder) / name).relative_to(root)


@contextlib.contextmanager
def file_errors(root: Path) -> Iterator[None]:
    """Raise the operating system's errors as the product's: permission errors are fatal, all others transient."""
    try:
        yield
    except PermissionError as error:
        raise FatalError(
            "state_access_denied", f"The state directory '{root}' is not accessible: {error.strerror}.", root=str(root)
        ) from error
    except OSError as error:
        raise TransientError(
            "state_unavailable", f"The state directory '{root}' failed: {error.strerror}.", root=str(root)
        ) from error


class LocalStateStore:
    """The state store port over files; a version is the hash of the content. Threads and processes can share it.

    Every change holds one lock file, which makes compare-and-write atomic on a local file system (not on NFS).
    """

    def __init__(self, url: str) -> None:
        """Open the directory of ``file:///dir``, creating it if it does not exist.

        Raises:
            FatalError: "state_url_invalid", "state_access_denied".
        """
        parts = urlsplit(url)
        if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
            raise FatalError("state_url_invalid", f"The state URL {url!r} does not have the form file:///dir.", url=url)
        self.url = url.rstrip("/")
        self._root = Path(unquote(parts.path))
        with file_errors(self._root):
            make_folder(self._root)

    def get(self, path: str) -> Stored | None:
        """Return a value, or None when absent."""
        with file_errors(self._root):
            try:
                data = self._file(path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Stored(data, _hash(data))

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``, fewer at the end of the value. Raises StateMissing."""
        with file_errors(self._root):
            try:
                with self._file(path).open("rb") as file:
                    file.seek(start)
                    return file.read(max(length, 0))
            except FileNotFoundError as error:
                raise self._missing(path) from error

    def put(self, path: str, data: bytes) -> None:
        """Write a value, replacing any other."""
        with self._changing():
            write_whole(self._file(path), data)

    def create(self, path: str, data: bytes) -> str:
        """Write a value that must not exist yet; return its version. Raises StateConflict when it does."""
        with self._changing():
            if self._file(path).exists():
                raise StateConflict("state_conflict", f"{self.url}/{path} already exists.", path=path)
            write_whole(self._file(path), data)
        return _hash(data)

    def replace(self, path: str, data: bytes, version: str) -> str:
        """Replace exactly this version of a value; return the new version. Raises StateConflict for any other."""
        with self._changing():
            file = self._file(path)
            if not file.exists() or _hash(file.read_bytes()) != version:
                raise StateConflict("state_conflict", f"{self.url}/{path} has changed since it was read.", path=path)
            write_whole(file, data)
        return _hash(data)

    def delete(self, path: str) -> None:
        """Remove a value; an absent value is not an error."""
        with self._changing():
            file = self._file(path)
            if file.exists():
                file.unlink()
                sync_folder(file.parent)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield all paths that start with a prefix, in no particular order. Streams."""
        with file_errors(self._root):
            for file in walk_files(self._root, prefix):
                path = file_to_path(file)
                if path.startswith(prefix):
                    yield path

    def upload(self, path: str, source: Path) -> None:
        """Copy a file to a value, replacing any other."""
        with self._changing(), source.open("rb") as content:
            replace_file(self._file(path), lambda file: shutil.copyfileobj(content, file))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with file_errors(self._root), (self._root / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _file(self, path: str) -> Path:
        return self._root / path_to_file(path)

    def _missing(self, path: str) -> StateMissing:
        return StateMissing("state_missing", f"{self.url}/{path} does not exist.", path=path)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class LocalSource:
    """The object source port over one directory per bucket.

    A file has one line of JSON (content type, metadata, time) and then the body.
    """

    def __init__(self, root: Path) -> None:
        """Open a directory that has one directory per bucket."""
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
        """Write an object, creating its bucket if needed; return the entry that a listing will show."""
        moment = timestamp_now()
        header = orjson.dumps({"content_type": content_type, "metadata": dict(metadata or {}), "last_modified": moment})
        write_whole(self._file(bucket, key), header + b"\n" + body)
        return _make_ref(bucket, key, body, last_modified=moment)

    def remove(self, bucket: str, key: str) -> None:
        """Remove an object; an absent object is not an error."""
        self._file(bucket, key).unlink(missing_ok=True)

    def check_bucket(self, bucket: str, prefix: str = "") -> None:
        """Return when the bucket exists. Raises FatalError ("bucket_not_found")."""
        if not (self._root / bucket).is_dir():
            raise FatalError("bucket_not_found", f"The bucket '{bucket}' does not exist.", bucket=bucket)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[ObjectRef]:
        """Yield every object under a prefix in the byte order of keys, as S3 does. Reads every file."""
        self.check_bucket(bucket)
        keys = (file_to_path(file) for file in walk_files(self._root / bucket, prefix))
        for key in sorted((key for key in keys if key.startswith(prefix)), key=str.encode):
            with contextlib.suppress(FileNotFoundError):  # removed during the listing
                yield self._read(bucket, key).ref

    async def fetch(self, ref: ObjectRef, *, max_bytes: int) -> RawObject:
        """Read the newest version of one whole object. Raises ObjectGone, ObjectError ("object_too_large")."""
        try:
            raw = await asyncio.to_thread(self._read, ref.bucket, ref.key)
        except FileNotFoundError as error:
            raise ObjectGone("object_gone", f"{ref.uri} no longer exists.", key=ref.key) from error
        if max(raw.ref.size_bytes, ref.size_bytes) > max_bytes:
            raise ObjectError("object_too_large", f"{ref.uri} has more than {max_bytes} bytes.", key=ref.key)
        return raw

    async def fetch_into(self, ref: ObjectRef, file: BinaryIO, *, max_bytes: int) -> ObjectHead:
        """Read one object into a file, replacing its content. Raises as ``fetch``, and OSError. Memory: the object."""
        raw = await self.fetch(ref, max_bytes=max_bytes)
        file.seek(0)
        file.truncate()
        await asyncio.to_thread(file.write, raw.body)
        return ObjectHead(raw.ref, raw.content_type, raw.metadata)

    async def exists(self, bucket: str, key: str) -> bool:
        """True when the object exists now. Raises FatalError ("bucket_not_found")."""
        self.check_bucket(bucket)
        return await asyncio.to_thread(self._file(bucket, key).exists)

    async def close(self) -> None:
        """Release nothing."""

    def _file(self, bucket: str, key: str) -> Path:
        return self._root / bucket / path_to_file(key)

    def _read(self, bucket: str, key: str) -> RawObject:
        header, _, body = self._file(bucket, key).read_bytes().partition(b"\n")
        facts = orjson.loads(header)
        ref = _make_ref(bucket, key, body, last_modified=facts["last_modified"])
        return RawObject(ref=ref, body=body, content_type=facts["content_type"], metadata=facts["metadata"])


def _make_ref(bucket: str, key: str, body: bytes, *, last_modified: str) -> ObjectRef:
    etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return ObjectRef(bucket=bucket, key=key, etag=etag, size_bytes=len(body), last_modified=last_modified)
