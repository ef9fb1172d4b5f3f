"""Sinks for points: the part of Qdrant's REST API and of Weaviate's REST and gRPC APIs that clients call to write.

    python benchmarks/sim_stores.py

Points are counted and dropped; reads find nothing. Answers are constant bytes, bodies are parsed only to count
points: occurrences of ``"vector":`` in JSON, a walk over the outermost message in gRPC. So a benchmark that writes here
measures the client and not a database. Collections and their schemas are stored: clients compare them.

``GET /sim/counters`` returns the counts since ``POST /sim/reset``.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import orjson
from http_server import LOOPBACK, Reply, Request, answer_json, make_answer, serve

_POINTS_DONE = make_answer(b'{"result":{"operation_id":1,"status":"completed"},"status":"ok","time":0.0001}')
_TRUE = make_answer(b'{"result":true,"status":"ok","time":0.0001}')
_READ_ANSWERS = {
    "": make_answer(b'{"result":[],"status":"ok","time":0.0001}'),
    "scroll": make_answer(b'{"result":{"points":[],"next_page_offset":null},"status":"ok","time":0.0001}'),
    "count": make_answer(b'{"result":{"count":0},"status":"ok","time":0.0001}'),
    "query": make_answer(b'{"result":{"points":[]},"status":"ok","time":0.0001}'),
}
_SETTINGS: dict[str, Any] = {
    "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000, "max_indexing_threads": 0},
    "optimizer_config": {
        "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
        "flush_interval_sec": 5, "indexing_threshold": 20_000,
    },
    "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
}  # fmt: skip
_COLLECTION = re.compile(r"/collections/([^/]+)(?:/(.*))?")
_CLASS = re.compile(r"/v1/schema/([^/]+)")
_GRPC_MESSAGE_BYTES = 100 * 1024 * 1024


@dataclass(slots=True)
class Counters:
    """Counts of what was written."""

    points: int = 0
    upserts: int = 0
    deletes: int = 0
    reads: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Sinks:
    """Both stores in one process; ``handle`` is passed to ``http_server.serve``."""

    qdrant: Counters = field(default_factory=Counters)
    weaviate: Counters = field(default_factory=Counters)
    _collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    _classes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer one request; Qdrant and Weaviate share no path."""
        if request.path == "/sim/counters":
            counters = {"qdrant": self.qdrant, "weaviate": self.weaviate}
            reply(answer_json({n: {f: getattr(c, f) for f in c.__slots__} for n, c in counters.items()}))
        elif request.path == "/sim/reset":
            self.qdrant, self.weaviate = Counters(), Counters()
            self._collections.clear()
            self._classes.clear()
            reply(answer_json({}))
        elif request.path.startswith("/v1/"):
            reply(self._answer_weaviate(request))
        else:
            reply(self._answer_qdrant(request))

    def _answer_qdrant(self, request: Request) -> bytes:
        if request.path == "/":
            return answer_json({"title": "qdrant - vector search engine", "version": "1.19.0", "commit": "0"})
        if request.path == "/collections":
            return _qdrant({"collections": [{"name": name} for name in self._collections]})
        found = _COLLECTION.fullmatch(request.path)
        if found is None:
            return _unknown(request)
        name, rest = found[1], found[2] or ""
        if rest.startswith("points"):
            return self._answer_points(request, rest.removeprefix("points").lstrip("/"))
        if rest == "exists":
            return _qdrant({"exists": name in self._collections})
        if rest == "index" and request.method == "PUT":
            body = orjson.loads(request.body)
            kind = body.get("field_schema")
            kind = kind.get("type") if isinstance(kind, dict) else kind
            schema = self._collections[name]["payload_schema"]
            schema[body["field_name"]] = {"data_type": kind, "points": 0}
            return _POINTS_DONE
        return self._answer_collection(request, name)

    def _answer_collection(self, request: Request, name: str) -> bytes:
        if request.method == "PUT":
            params = orjson.loads(request.body)
            self._collections[name] = {
                "status": "green", "optimizer_status": "ok", "points_count": 0, "segments_count": 1,
                "config": {"params": {"vectors": params.get("vectors", {}), "shard_number": 1}, **_SETTINGS},
                "payload_schema": {},
            }  # fmt: skip
            return _TRUE
        if request.method == "DELETE":
            self._collections.pop(name, None)
            return _TRUE
        if name not in self._collections:
            said = f"Not found: Collection `{name}` doesn't exist!"
            return answer_json({"status": {"error": said}, "time": 0.0}, status="404 Not Found")
        return _qdrant(self._collections[name])

    def _answer_points(self, request: Request, action: str) -> bytes:
        if request.method == "PUT" and not action:
            self.qdrant.upserts += 1
            self.qdrant.bytes += len(request.body)
            self.qdrant.points += count_json_points(request.body)
            return _POINTS_DONE
        if action == "delete":
            self.qdrant.deletes += 1
            return _POINTS_DONE
        self.qdrant.reads += 1
        return _READ_ANSWERS.get(action) or _unknown(request)

    def _answer_weaviate(self, request: Request) -> bytes:
        if request.path == "/v1/meta":
            return answer_json({"version": "1.33.0", "modules": {}, "grpcMaxMessageSize": _GRPC_MESSAGE_BYTES})
        if request.path == "/v1/.well-known/ready":
            return answer_json({})
        if request.path == "/v1/schema":
            if request.method == "POST":
                definition = orjson.loads(request.body)
                self._classes[definition["class"]] = definition
                return answer_json(definition)
            return answer_json({"classes": list(self._classes.values())})
        found = _CLASS.fullmatch(request.path)
        if found is None:
            return _unknown(request)
        if request.method == "DELETE":
            self._classes.pop(found[1], None)
            return answer_json({})
        if found[1] not in self._classes:
            return make_answer(b"", status="404 Not Found")
        return answer_json(self._classes[found[1]])

    @contextlib.asynccontextmanager
    async def open_grpc(self) -> AsyncIterator[dict[str, Any]]:
        """Listen for gRPC on any port; yields its URL."""
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", _GRPC_MESSAGE_BYTES)])
        server.add_generic_rpc_handlers((_Rpc(self._find_call),))
        port = server.add_insecure_port(f"{LOOPBACK}:0")
        await server.start()
        try:
            yield {"grpc_url": f"http://{LOOPBACK}:{port}"}
        finally:
            await server.stop(None)

    def _find_call(self, method: str) -> Callable[[bytes], bytes] | None:
        return {
            "/weaviate.v1.Weaviate/BatchObjects": self._write_batch,
            "/weaviate.v1.Weaviate/BatchDelete": self._delete_batch,
            "/weaviate.v1.Weaviate/Search": self._read_none,
            "/weaviate.v1.Weaviate/Aggregate": self._read_none,
            "/grpc.health.v1.Health/Check": lambda _: b"\x08\x01",
        }.get(method)

    def _write_batch(self, message: bytes) -> bytes:
        self.weaviate.upserts += 1
        self.weaviate.bytes += len(message)
        self.weaviate.points += count_messages(message, field=1)
        return b""

    def _delete_batch(self, message: bytes) -> bytes:
        self.weaviate.deletes += 1
        return b""

    def _read_none(self, message: bytes) -> bytes:
        self.weaviate.reads += 1
        return b""


class _Rpc(grpc.GenericRpcHandler):
    """Serializer that passes messages on as bytes."""

    def __init__(self, find: Callable[[str], Callable[[bytes], bytes] | None]) -> None:
        self._find = find

    def service(self, call: Any) -> Any:
        answer = self._find(call.method)
        if answer is None:
            return None

        async def run(message: bytes, context: Any) -> bytes:
            return answer(message)

        return grpc.unary_unary_rpc_method_handler(run)


def count_json_points(body: bytes) -> int:
    """Return the number of points in the body of an upsert: by counting vectors, or by parsing columns."""
    if body[:12].startswith(b'{"batch"'):
        return len(orjson.loads(body)["batch"]["ids"])
    return body.count(b'"vector":')


def count_messages(message: bytes, *, field: int) -> int:
    """Return how often a length-delimited field occurs in a protobuf message; supports such fields and varints only."""
    count = at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if tag & 7 == 2:
            at += value
            count += tag >> 3 == field
    return count


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _qdrant(result: Any) -> bytes:
    return answer_json({"result": result, "status": "ok", "time": 0.0001})


def _unknown(request: Request) -> bytes:
    said = f"the sink does not support {request.method} {request.path}"
    return answer_json({"status": {"error": said}, "error": said}, status="404 Not Found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    sinks = Sinks()
    serve(sinks.handle, 1, extra=lambda _: sinks.open_grpc())


if __name__ == "__main__":
    main()
