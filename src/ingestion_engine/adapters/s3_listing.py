"""How S3 spells what we read: listings, headers, user metadata, and which keys obstore can address."""

from __future__ import annotations

import email.header
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ingestion_engine.domain.records import ObjectRef


def list_pages(client: Any, bucket: str, prefix: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the entries of ``ListObjectsV2``, a page at a time, keys exactly as they are.

    botocore asks for ``EncodingType=url`` by itself and decodes it (``+`` is a space there), so keys with characters
    that XML cannot carry arrive whole. Cost: one request per 1,000 keys.
    """
    token: dict[str, str] = {}
    while True:
        page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **token)
        yield page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def read_entry(bucket: str, entry: Mapping[str, Any]) -> ObjectRef:
    """Return a listing's entry as a record. Pure."""
    return ObjectRef(
        bucket, entry["Key"], read_etag(entry.get("ETag")), int(entry["Size"]), format_time(entry["LastModified"])
    )


def read_etag(header: str | None) -> str:
    """Return an etag without its quotes; empty when the server sends none. Pure."""
    return (header or "").strip('"')


def format_time(moment: datetime) -> str:
    """Return RFC 3339 in UTC, whole seconds: listings have milliseconds, headers do not, and both must be equal.

    Pure.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """Return user metadata as people wrote it; names in lower case. Pure.

    S3 answers values beyond ASCII as RFC 2047 words ("Working with object metadata" in the S3 user guide); SeaweedFS
    and MinIO send raw UTF-8, which HTTP libraries read as Latin-1. Percent-encoding is a client's own habit and stays.
    """
    return {name.lower(): _read_value(value) for name, value in headers.items()}


def _read_value(value: str) -> str:
    if "=?" in value and value.isascii():
        try:
            return str(email.header.make_header(email.header.decode_header(value)))
        except (ValueError, LookupError, email.errors.HeaderParseError):
            return value
    if not value.isascii():
        try:
            return value.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return value
    return value


def is_plain(key: str) -> bool:
    """True when obstore addresses a key as it is. Pure.

    obstore parses keys into path segments: it refuses empty, ``.`` and ``..`` segments and ASCII control characters,
    and drops slashes at both ends. Percent signs, spaces, backslashes and any Unicode pass unchanged (tried with
    obstore 0.12 and SeaweedFS).
    """
    if any(character < " " or character == "\x7f" for character in key):
        return False
    return all(segment not in ("", ".", "..") for segment in key.split("/"))
