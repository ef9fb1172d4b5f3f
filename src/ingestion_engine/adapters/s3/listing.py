"""Read S3's listings, headers and user metadata, and tell which keys obstore can address."""

from __future__ import annotations

import email.header
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from ingestion_engine.domain.records import ObjectRef
from ingestion_engine.runtime.timestamps import format_seconds, parse_timestamp


def read_pages_quickly(client: Any) -> None:
    """Make a client parse listings with a small parser that costs a tenth of botocore's own.

    botocore still signs, sends, retries and reads everything else, including errors. It requests ``EncodingType=url``
    by itself (``+`` is a space there), so keys with characters that XML cannot carry arrive complete.
    """
    client.meta.events.register("before-parse.s3.ListObjectsV2", _take_entries)


def list_pages(client: Any, bucket: str, prefix: str) -> Iterator[list[ObjectRef]]:
    """Yield the entries of ``ListObjectsV2`` page by page, with keys exactly as they are.

    Args:
        client: A client prepared by ``read_pages_quickly``.
        bucket: Name of the bucket.
        prefix: Prefix of the keys.

    Cost: one request per 1,000 keys.
    """
    token: dict[str, str] = {}
    while True:
        page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **token)
        yield [ObjectRef(bucket, *entry) for entry in page.get(_ENTRIES, [])]
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


_ENTRIES = "Entries"
"""Name of the entries in a parsed response; S3 has no field of this name."""


def _take_entries(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Move the entries from a response's XML to the parsed response; botocore reads the rest."""
    if response_dict["status_code"] != 200:
        return
    try:
        root = ET.fromstring(response_dict["body"])  # noqa: S314 - expat bounds entity expansion and fetches nothing
    except ET.ParseError:
        return  # botocore reports what is wrong
    space = root.tag.rpartition("}")[0]
    space += "}" if space else ""
    contents = root.findall(f"{space}Contents")
    read = unquote_plus if root.findtext(f"{space}EncodingType") == "url" else str
    names = [space + name for name in ("Key", "ETag", "Size", "LastModified")]
    entries = []
    for element in contents:
        key, etag, size, modified = map(element.findtext, names)
        if not key or not size or not modified:
            from botocore.parsers import ResponseParserError

            raise ResponseParserError("A listing has an entry without key, size or time.")
        entries.append((read(key), read_etag(etag), int(size), _read_time(modified)))
        root.remove(element)
    customized_response_dict[_ENTRIES] = entries
    response_dict["body"] = ET.tostring(root)


def _read_time(text: str) -> str:
    """Return the time in whole seconds: listings have milliseconds, headers do not, and both must be equal."""
    if text.endswith("Z"):
        return text[:19] + "Z"
    return format_seconds(parse_timestamp(text))


def read_etag(header: str | None) -> str:
    """Return an etag without its quotes; empty when the server sends none. Pure."""
    return (header or "").strip('"')


def read_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """Return user metadata as it was written; names in lower case. Pure.

    S3 returns values beyond ASCII as RFC 2047 words ("Working with object metadata" in the S3 user guide); SeaweedFS
    and MinIO send raw UTF-8, which HTTP libraries read as Latin-1. Percent-encoding is a client's own convention and is
    kept.
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
    """True when obstore addresses a key unchanged. Pure.

    obstore parses keys into path segments: it refuses empty, ``.`` and ``..`` segments and ASCII control characters,
    and drops slashes at both ends. Percent signs, spaces, backslashes and any Unicode are passed unchanged (tested with
    obstore 0.12 and SeaweedFS).
    """
    if any(character < " " or character == "\x7f" for character in key):
        return False
    return all(segment not in ("", ".", "..") for segment in key.split("/"))
