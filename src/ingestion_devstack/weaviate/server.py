"""A stand-in for Weaviate: its REST and gRPC APIs over SQLite and exact vector search, in one process.

    python -m ingestion_devstack.weaviate.server --host 127.0.0.1 --port P --grpc-port G --data-dir D

It imitates Weaviate 1.35: what the ingestion engine calls, and the basic calls of the official Python client v4 for
classes, aliases, batches, reads, simple filters, vector search, counts and deletion. Texts and statuses, of errors too,
are the real server's (compared with 1.40.0-dev by the contract tests); the other modules name the sources they were
read from. Everything else is refused with a text that names it. Every acknowledged change survives the death of the
process. The key, if one is required, comes from the environment variable WEAVIATE_API_KEY, so that it never shows in a
process list.

Known differences: equal distances are ordered by age; in the very first batch of a class the real server stores an
object whose vector has another length than its batch-mates' although it reports the error, the stand-in does not.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import uvicorn

from ingestion_devstack.weaviate.database import Database
from ingestion_devstack.weaviate.grpc import start_grpc
from ingestion_devstack.weaviate.rest import make_app

_STOP_S: Final = 3
"""Time for running requests to finish after a signal; cutting them off loses nothing that was acknowledged."""


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="weaviate_server", description="Weaviate's REST and gRPC APIs over SQLite.")
    parser.add_argument("--host", default="127.0.0.1", help="address of both listeners")
    parser.add_argument("--port", type=int, default=8080, help="REST port")
    parser.add_argument("--grpc-port", type=int, default=50051, help="gRPC port")
    parser.add_argument("--data-dir", type=Path, required=True, help="directory of classes and objects")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then return; exit code 0.

    Raises:
        OSError: a port is taken, or the data directory cannot be written.
    """
    arguments = _parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its own clean stop
    api_key = os.environ.get("WEAVIATE_API_KEY") or None
    database = Database(arguments.data_dir)
    with socket.create_server((arguments.host, arguments.port), backlog=2048) as listener:
        address = f"{arguments.host}:{arguments.grpc_port}"
        grpc_server = start_grpc(database, address=address, api_key=api_key)
        host, port = listener.getsockname()[:2]
        sys.stdout.write(f"Weaviate stand-in on http://{host}:{port}, gRPC on {address}\n")
        sys.stdout.flush()
        config = uvicorn.Config(
            make_app(database, api_key),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_STOP_S,
        )
        uvicorn.Server(config).run(sockets=[listener])
    grpc_server.stop(grace=_STOP_S).wait()
    database.close()


if __name__ == "__main__":
    main()
