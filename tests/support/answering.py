"""A server with one function per path, for what no stand-in can be told to do."""

from __future__ import annotations

import contextlib
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

Answers = Mapping[str, Callable[[bytes], tuple[Any, ...]]]
"""By path, with or without its query, or "*" for every other path: from a request's body to its answer.

An answer is status, JSON (bytes are sent unchanged) and, if there are any, headers.
"""


class LoopbackServer(ThreadingHTTPServer):
    """A server that says nothing of clients that hang up, which some tests make them do."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class TlsServer(LoopbackServer):
    """A server whose handshakes run in the threads of their connections."""

    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        # A client that does not accept the certificate ends the handshake.
        with contextlib.suppress(ssl.SSLError), self.context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)


@contextmanager
def running(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve on loopback until the block ends; the URL. ``tls`` is the context of a server with a certificate."""
    server = (LoopbackServer if tls is None else TlsServer)(("127.0.0.1", 0), handler)
    if isinstance(server, TlsServer) and tls is not None:
        server.context = tls
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(answers: Answers, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve these answers on loopback until the block ends; the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            place = next(place for place in (self.path, self.path.split("?")[0], "*") if place in answers)
            status, answer, *headers = answers[place](body)
            content = answer if isinstance(answer, bytes) else orjson.dumps(answer)
            self.send_response(status)
            for name, value in dict(*headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815 - the library's own names

        def log_message(self, *_: object) -> None: ...

    with running(Handler, tls) as url:
        yield url
