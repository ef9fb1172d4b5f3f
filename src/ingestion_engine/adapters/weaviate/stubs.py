"""Weaviate's protocol messages without Weaviate's client.

Both ship in one package, and importing any part of a package runs the package itself first: 1.5 s of processor time
in every worker process for a client that is not used. An empty module therefore replaces the package while the messages
are imported and is removed afterwards: a later import of the client gets the real package, with these messages. A
second empty module replaces the package's exceptions, which import an HTTP client and its command line; the messages
need one of them, raised when gRPC is too old.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

PACKAGE = "weaviate"


@contextlib.contextmanager
def _without_its_client() -> Iterator[None]:
    """Import submodules of the package without running the package itself."""
    found = importlib.util.find_spec(PACKAGE)
    if PACKAGE in sys.modules or found is None:  # already imported, or not installed, which the import reports
        yield
        return
    package, exceptions = ModuleType(PACKAGE), ModuleType(f"{PACKAGE}.exceptions")
    package.__path__ = list(found.submodule_search_locations or ())
    vars(exceptions)["WeaviateProtobufIncompatibility"] = ImportError
    placeholders = {module.__name__: module for module in (package, exceptions)}
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for name in placeholders:
            del sys.modules[name]


with _without_its_client():
    from weaviate.proto.v1 import (
        aggregate_pb2,
        base_pb2,
        base_search_pb2,
        batch_delete_pb2,
        batch_pb2,
        health_weaviate_pb2,
        search_get_pb2,
        weaviate_pb2_grpc,
    )

__all__ = [
    "aggregate_pb2",
    "base_pb2",
    "base_search_pb2",
    "batch_delete_pb2",
    "batch_pb2",
    "health_weaviate_pb2",
    "search_get_pb2",
    "weaviate_pb2_grpc",
]
