"""Upload of local files into a bucket: what ``ingest upload`` does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ingestion_engine.adapters.s3.client import Place, make_client, s3_errors
from ingestion_engine.adapters.s3.listing import read_page
from ingestion_engine.domain.errors import ObjectError, TlsFailed, TransientError
from ingestion_engine.runtime.settings import S3Settings

REQUESTS_IN_FLIGHT: Final = 8
"""Enough to hide the latency of small files; more would only share the same line (a guess)."""

OBJECT_MAX_BYTES: Final = 5 * 1024**3
"""Limit of one PutObject request. Source: the S3 user guide, "Uploading objects"."""

KEY_MAX_BYTES: Final = 1024
"""Source: the S3 user guide, "Object key names"."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to upload and the key it gets."""

    path: Path
    key: str
    size_bytes: int


def find_files(root: Path, prefix: str) -> list[LocalFile]:
    """Return the files of a directory, or one file, in the order of their keys.

    Names that start with a dot are left out, with everything below them. Symbolic links to files are followed, symbolic
    links to directories are not, so that no loop can arise. ``root`` itself may be either.

    Args:
        root: Directory or file.
        prefix: Start of every key; a ``/`` is added between a prefix without one and the name.

    Raises:
        ObjectError: "file_not_uploadable": a name or a size that S3 does not accept.
        OSError: a directory cannot be read.
    """
    start = f"{prefix}/" if prefix and not prefix.endswith("/") else prefix
    found = []
    for path, name in _walk(root) if root.is_dir() else [(root, root.name)]:
        size = path.stat().st_size
        _check(path, start + name, size)
        found.append(LocalFile(path, start + name, size))
    return sorted(found, key=lambda file: file.key)


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path, path.relative_to(root).as_posix()


def _check(path: Path, key: str, size_bytes: int) -> None:
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise _refuse(path, "its name is not valid UTF-8") from None
    if length > KEY_MAX_BYTES:
        raise _refuse(path, f"its key has {length} bytes; S3 accepts at most {KEY_MAX_BYTES}")
    if size_bytes > OBJECT_MAX_BYTES:
        raise _refuse(path, f"it has {size_bytes} bytes; one upload has at most {OBJECT_MAX_BYTES}")


def _refuse(path: Path, reason: str) -> ObjectError:
    shown = os.fsencode(path).decode(errors="backslashreplace")
    return ObjectError("file_not_uploadable", f"File {shown!r} cannot be uploaded: {reason}.")


def upload_files(
    settings: S3Settings, bucket: str, files: Sequence[LocalFile], *, ca_file: Path | None = None
) -> Iterator[LocalFile]:
    """Upload files, existing objects included, and yield each when S3 has it; the order is not kept. Idempotent.

    Raises:
        FatalError: "bucket_not_found", "bucket_access_denied".
        TransientError: "s3_unavailable".
        OSError: a file cannot be read.

    Cost: one request per file and one for the bucket, eight at once; a file is streamed, not held in memory.
    """
    client = make_client(settings, ca_file=ca_file)
    place = Place(bucket)
    try:
        with s3_errors(place):  # the response to a HEAD request has no code that tells S3 from another server
            common = os.path.commonprefix([file.key for file in files])  # noqa: RUF071 - a prefix of keys may be any
            read_page(client, bucket, common, max_keys=1)
        with ThreadPoolExecutor(REQUESTS_IN_FLIGHT) as pool:
            uploads = [pool.submit(_put, client, place, file) for file in files]
            try:
                for upload in as_completed(uploads):
                    yield upload.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except TlsFailed:
        raise
    except TransientError as error:
        raise TransientError(
            error.code, error.message, hint="Check INGEST_S3__ENDPOINT_URL, and that the server runs.", **error.context
        ) from error
    finally:
        client.close()


def _put(client: Any, place: Place, file: LocalFile) -> LocalFile:
    with file.path.open("rb") as body, s3_errors(place):
        client.put_object(Bucket=place.bucket, Key=file.key, Body=body)
    return file
