"""An OTLP/HTTP collector on loopback that keeps the spans which it receives, read from the real protobuf messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.waiting import wait_for


@dataclass(frozen=True)
class SeenSpan:
    """One exported span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    """Name of the process's service."""
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    error: str
    """Description of a failed status; empty for any other."""


@dataclass
class Collector:
    """What was received."""

    url: str
    status: int = 200
    """Status of the answers."""
    misbehave: Callable[[BaseHTTPRequestHandler], None] | None = None
    """Answers in place of the collector, once it has read the request."""
    spans: list[SeenSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """Requests as received, decompressed."""
    headers: list[dict[str, str]] = field(default_factory=list)

    def of_trace(self, trace_id: str) -> list[SeenSpan]:
        """The spans of a trace, in the order of their beginning."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def wait_for(self, name: str, number: int = 1, timeout_s: float = 30) -> list[SeenSpan]:
        """The spans with a name, once there are at least so many."""
        return wait_for(
            lambda: found if len(found := [s for s in self.spans if s.name == name]) >= number else None, timeout_s
        )

    def take(self, body: bytes) -> None:
        """Read one request."""
        request = ExportTraceServiceRequest.FromString(body)
        self.bodies.append(body)
        for resource in request.resource_spans:
            service = {item.key: item.value.string_value for item in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        SeenSpan(
                            name=span.name,
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            service=service,
                            start_ns=span.start_time_unix_nano,
                            end_ns=span.end_time_unix_nano,
                            attributes={item.key: _read(item.value) for item in span.attributes},
                            error=span.status.message or "error" if span.status.code == 2 else "",
                        )
                    )


def _read(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_read(item) for item in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Serve on a free port of loopback while the context is open."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            if self.path == "/v1/traces" and collector.status == 200:
                collector.take(body)
            if collector.misbehave is not None:
                collector.misbehave(self)
                return
            self.send_response(collector.status if self.path == "/v1/traces" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
