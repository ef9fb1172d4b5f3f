"""Synthetic bucket: lists any number of keys, serves their small bodies, and counts the requests.

    python benchmarks/sim_s3.py --keys 100000

Keys are ``00000/000.md`` to ``NNNNN/999.md``, in byte order. A page of a listing is a template with the number of its
folder put in, so a page of a thousand entries costs the server a copy. Only ListObjectsV2 and GET are supported;
signatures are not checked.

``POST /sim/changed`` with ``{"one": n, "percent": m}`` gives the second object its n-th version, and every hundredth
object its m-th. ``GET /sim/counters`` returns the counts since ``POST /sim/reset``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

from http_server import Reply, Request, answer_json, make_answer, serve

PAGE_KEYS = 1000
_FOLDER = "FFFFF"
_DATE, _HTTP_DATE = "2026-01-01T00:00:00.000Z", "Thu, 01 Jan 2026 00:00:00 GMT"
_SENTENCE = "The synthetic object {} in version {} says nothing that another object has not said before it. "
_SIZE = 480


@dataclass(slots=True)
class Bucket:
    """The objects and the counters."""

    keys: int
    versions: dict[str, int] = field(default_factory=lambda: {"one": 0, "percent": 0})
    counters: dict[str, int] = field(default_factory=lambda: {"lists": 0, "gets": 0, "others": 0})
    _pages: dict[bool, bytes] = field(default_factory=dict)

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request."""
        if request.path == "/sim/counters":
            reply(answer_json(self.counters))
        elif request.path == "/sim/reset":
            self.counters = dict.fromkeys(self.counters, 0)
            reply(answer_json({}))
        elif request.path == "/sim/changed":
            self.versions |= json.loads(request.body)
            self._pages.clear()
            reply(answer_json({}))
        elif request.method == "GET" and "list-type=2" in request.query:
            self.counters["lists"] += 1
            reply(self._list(parse_qs(request.query)))
        elif request.method == "GET" and request.path.endswith(".md"):
            self.counters["gets"] += 1
            reply(self._get(unquote(request.path).split("/", 2)[2]))
        else:
            self.counters["others"] += 1
            reply(make_answer(b"", status="501 Not Implemented"))

    def _list(self, query: dict[str, list[str]]) -> bytes:
        folder = int(query.get("continuation-token", ["0"])[0])
        count = min(int(query.get("max-keys", ["1000"])[0]), PAGE_KEYS, self.keys - folder * PAGE_KEYS)
        if count < PAGE_KEYS:
            entries = b"".join(self._entry(folder == 0, number) for number in range(count))
        else:
            if (folder == 0) not in self._pages:
                self._pages[folder == 0] = b"".join(self._entry(folder == 0, n) for n in range(PAGE_KEYS))
            entries = self._pages[folder == 0]
        more = (folder + 1) * PAGE_KEYS < self.keys
        token = f"<NextContinuationToken>{folder + 1}</NextContinuationToken>" if more else ""
        head = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>docs</Name><Prefix></Prefix><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        )
        body = head.encode() + entries.replace(_FOLDER.encode(), b"%05d" % folder) + b"</ListBucketResult>"
        return make_answer(body, kind="application/xml")

    def _version(self, *, in_first: bool, number: int) -> str:
        if number % 100 == 0:
            return f"b{self.versions['percent']}"
        return f"a{self.versions['one']}" if in_first and number == 1 else "0"

    def _entry(self, in_first: bool, number: int) -> bytes:
        etag = _make_etag(number, self._version(in_first=in_first, number=number))
        return (
            f"<Contents><Key>{_FOLDER}/{number:03d}.md</Key><LastModified>{_DATE}</LastModified>"
            f"<ETag>&#34;{etag}&#34;</ETag><Size>{_SIZE}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        ).encode()

    def _get(self, key: str) -> bytes:
        folder, name = key.split("/")
        number = int(name.removesuffix(".md"))
        version = self._version(in_first=int(folder) == 0, number=number)
        text = (_SENTENCE.format(key, version) * 10)[:_SIZE]
        headers = f'ETag: "{_make_etag(number, version)}"\r\nLast-Modified: {_HTTP_DATE}\r\nAccept-Ranges: bytes\r\n'
        return make_answer(text.encode(), kind="text/markdown", headers=headers)


def _make_etag(number: int, version: str) -> str:
    return f"{number:024d}{version:>8}".replace(" ", "f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    options = parser.parse_args()
    serve(Bucket(options.keys).handle, 1)


if __name__ == "__main__":
    main()
