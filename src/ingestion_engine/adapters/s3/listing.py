"""Read S3's listings, headers and user metadata, and tell which keys obstore can address."""

from __future__ import annotations

import email.header
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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

    Raises:
        ResponseParserError: a page that is not S3's, or not of this bucket and prefix.

    Cost: one request per 1,000 keys.
    """
    token: str | None = None
    while True:
        page = read_page(client, bucket, prefix, token=token)
        yield page.refs
        if page.next_token is None:
            return
        if page.next_token == token:
            raise _refuse("repeats its continuation token")
        token = page.next_token


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    refs: list[ObjectRef]
    next_token: str | None
    """Token of the next page; None when this is the last one."""


def read_page(client: Any, bucket: str, prefix: str, *, token: str | None = None, max_keys: int | None = None) -> Page:
    """Return one page of a listing, which is proven to be of this bucket and prefix. One request.

    A page that lacks keys without saying so would remove their points, so whatever a proxy or a cache may send in place
    of it is refused. Raises ResponseParserError.
    """
    options: dict[str, Any] = {"ContinuationToken": token} if token is not None else {}
    if max_keys is not None:
        options["MaxKeys"] = max_keys
    response = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **options)
    found: _Found | None = response.get(_FOUND)
    if found is None:
        raise _refuse("has another status than 200")
    names = {bucket, ""} if not bucket.endswith(ACCESS_POINT_SUFFIXES) else {bucket, "", found.name}
    if found.name not in names:
        raise _refuse(f"is of bucket {found.name!r} instead of {bucket!r}")
    if found.prefixes and prefix not in found.prefixes:
        raise _refuse(f"has prefix {found.prefixes[0]!r} instead of {prefix!r}")
    if found.is_truncated and not response.get("NextContinuationToken"):
        raise _refuse("is not the last page but names no next one")
    next_token = response["NextContinuationToken"] if found.is_truncated else None
    return Page([ObjectRef(bucket, *entry) for entry in found.entries], next_token)


ACCESS_POINT_SUFFIXES = ("-s3alias", "--ol-s3")
"""Ends of access points' aliases, which stand for a bucket of another name."""
_FOUND = "Found"
"""Name of what ``_take_entries`` found in a parsed response; S3 has no field of this name."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a page states about itself, and its entries."""

    entries: list[tuple[str, str, int, str]]
    """Key, etag, size in bytes and time of each object."""
    name: str
    """Name of the bucket; empty when the server sends none."""
    prefixes: tuple[str, ...]
    """The prefix as sent and as decoded, because not every server encodes it; empty when the server sends none."""
    is_truncated: bool


def _refuse(problem: str) -> Exception:
    from botocore.parsers import ResponseParserError

    error: Exception = ResponseParserError(f"A listing {problem}.")
    return error


def _take_entries(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Move the entries from a response's XML to the parsed response; botocore reads the rest.

    Everything else that has status 200 is refused: botocore would read an empty body, or the page of a proxy, as a
    complete listing without entries.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        root = ET.fromstring(response_dict["body"])  # noqa: S314 - expat bounds entity expansion and fetches nothing
    except ET.ParseError as error:
        raise _refuse(f"is not XML ({error})") from error
    space = root.tag.rpartition("}")[0]
    space += "}" if space else ""
    truncated = root.findtext(f"{space}IsTruncated")
    if root.tag != f"{space}ListBucketResult" or truncated not in ("true", "false"):
        raise _refuse(f"is not a ListBucketResult that says whether it is complete, but <{root.tag}>")
    contents = root.findall(f"{space}Contents")
    read = unquote_plus if root.findtext(f"{space}EncodingType") == "url" else str
    sent = root.findtext(f"{space}Prefix")
    prefixes = () if sent is None else (sent, read(sent))
    names = [space + name for name in ("Key", "ETag", "Size", "LastModified")]
    entries = []
    for element in contents:
        key, etag, size, modified = map(element.findtext, names)
        if not key or not size or not modified:
            raise _refuse("has an entry without key, size or time")
        try:
            entries.append((read(key), read_etag(etag), int(size), _read_time(modified)))
        except ValueError as error:
            raise _refuse(f"has an entry that cannot be read ({error})") from error
        root.remove(element)
    name = root.findtext(f"{space}Name") or ""
    customized_response_dict[_FOUND] = _Found(entries, name, prefixes, is_truncated=truncated == "true")
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
