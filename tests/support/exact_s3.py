"""An S3 server in memory that keeps every key exactly as it is sent, as S3 itself does and SeaweedFS does not.

It has what reading needs (create a bucket, put, get, list), refuses everything else with 501, and every request whose
signature does not fit with 403: a client that signs another path than it sends would be noticed.
Written after https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and the reference of
ListObjectsV2 and GetObject.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from support.answering import running

KEY_ID, SECRET = "any", "thing"
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


Proxy = Callable[[str], tuple[int, bytes] | None]
"""What a proxy answers to a GET of a path in place of the server; None lets the request pass."""


@contextmanager
def exact_s3(tls: ssl.SSLContext | None = None, *, proxy: Proxy = lambda _path: None) -> Iterator[str]:
    """Serve until the block ends, behind a proxy; the URL. ``tls`` is the context of a server with a certificate."""
    buckets: dict[str, dict[str, bytes]] = {}
    with running(type("Bound", (_Handler,), {"buckets": buckets, "proxy": staticmethod(proxy)}), tls) as url:
        yield url


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    buckets: dict[str, dict[str, bytes]]
    proxy: Proxy

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket, key, query = self._read_target()
        if not self._is_signed(body):
            self._refuse(403, "SignatureDoesNotMatch")
        elif not key:
            self.buckets[bucket] = {}
            self._reply(200)
        elif bucket not in self.buckets:
            self._refuse(404, "NoSuchBucket")
        elif set(query) - {"x-id"}:
            self._refuse(501, "NotImplemented")
        else:
            self.buckets[bucket][key] = body
            self._reply(200, ETag=_etag(body))

    def do_GET(self) -> None:
        bucket, key, query = self._read_target()
        if (instead := self.proxy(self.path)) is not None:
            self._reply(*instead)
        elif not self._is_signed(b""):
            self._refuse(403, "SignatureDoesNotMatch")
        elif bucket not in self.buckets:
            self._refuse(404, "NoSuchBucket")
        elif not key and query.get("list-type") == "2" and query.get("encoding-type") == "url":
            self._reply(200, _render_list(self.buckets[bucket], query.get("prefix", "")))
        elif not key or set(query) - {"x-id"}:
            self._refuse(501, "NotImplemented")
        elif key not in self.buckets[bucket]:
            self._refuse(404, "NoSuchKey")
        else:
            self._send_object(self.buckets[bucket][key])

    def _send_object(self, body: bytes) -> None:
        headers = {"ETag": _etag(body), "Last-Modified": DATE}
        wanted = self.headers.get("If-Match")
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is not None and wanted.strip('"') != _etag(body).strip('"'):
            self._refuse(412, "PreconditionFailed")
        elif part is None:
            self._reply(200, body, **headers)
        else:
            first, last = int(part[1]), min(int(part[2]), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            self._reply(206, body[first : last + 1], **headers)

    def _read_target(self) -> tuple[str, str, dict[str, str]]:
        """Bucket, key and query; only the first slash after the bucket separates."""
        parts = urlsplit(self.path)
        bucket, _, key = parts.path[1:].partition("/")
        return bucket, unquote(key), dict(parse_qsl(parts.query, keep_blank_values=True))

    def _is_signed(self, body: bytes) -> bool:
        """Whether the signature of version 4 fits this request, its body included."""
        pattern = r"AWS4-HMAC-SHA256 Credential=([^/]+)/(.+), ?SignedHeaders=(.+), ?Signature=(\w+)"
        found = re.fullmatch(pattern, self.headers.get("Authorization", ""))
        content_hash = self.headers.get("x-amz-content-sha256", "")
        if found is None or content_hash not in {hashlib.sha256(body).hexdigest(), "UNSIGNED-PAYLOAD"}:
            return False
        key_id, scope, names, signature = found.groups()
        parts = urlsplit(self.path)
        query = sorted(
            (quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in parse_qsl(parts.query, keep_blank_values=True)
        )
        request = [
            self.command,
            quote(unquote(parts.path), safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in query),
            *(f"{name}:{' '.join(self.headers[name].split())}" for name in names.split(";")),
            "",
            names,
            content_hash,
        ]
        digest = hashlib.sha256("\n".join(request).encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self.headers['x-amz-date']}\n{scope}\n{digest}"
        made = f"AWS4{SECRET}".encode()
        for word in (*scope.split("/"), text):
            made = hmac.new(made, word.encode(), hashlib.sha256).digest()
        return key_id == KEY_ID and hmac.compare_digest(made.hex(), signature)

    def _refuse(self, status: int, code: str) -> None:
        self._reply(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _render_list(held: dict[str, bytes], prefix: str) -> bytes:
    """All keys with the prefix, in the order of their bytes, on one page."""
    entries = "".join(
        f"<Contents><Key>{quote(key, safe='/')}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>{escape(_etag(held[key]))}</ETag><Size>{len(held[key])}</Size></Contents>"
        for key in sorted(held, key=str.encode)
        if key.startswith(prefix)
    )
    flags = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<ListBucketResult xmlns="{space}">{flags}{entries}</ListBucketResult>'.encode()
