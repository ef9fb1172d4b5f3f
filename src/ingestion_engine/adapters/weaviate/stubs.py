"""Weaviate's protocol messages without Weaviate's client.

Both ship in one package, and importing anything of a package runs the package itself first: 1.5 s of processor time for
a client that is not used, in every worker process. So a stand-in takes the package's place while the messages are
imported, and leaves it again: who imports the client afterwards gets the real one, with these messages. Another one
stands for its exceptions, of which the messages' package takes one that says that gRPC is too old: they bring an HTTP
client and its command line.
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
    """Let submodules of the package be imported without running the package itself."""
    found = importlib.util.find_spec(PACKAGE)
    if PACKAGE in sys.modules or found is None:  # there already, or not installed, which the import will say
        yield
        return
    package, exceptions = ModuleType(PACKAGE), ModuleType(f"{PACKAGE}.exceptions")
    package.__path__ = list(found.submodule_search_locations or ())
    vars(exceptions)["WeaviateProtobufIncompatibility"] = ImportError
    stand_ins = {module.__name__: module for module in (package, exceptions)}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
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
