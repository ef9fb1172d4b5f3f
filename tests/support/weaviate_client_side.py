"""Weaviate and its official client: the server's addresses, and objects of a class with a property of every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import weaviate
from weaviate.classes.config import Configure, DataType, Property, Tokenization
from weaviate.classes.data import DataObject
from weaviate.classes.init import AdditionalConfig, Auth, Timeout
from weaviate.classes.query import Filter

from support import servers

Client = weaviate.WeaviateClient
by = Filter.by_property


def uid(number: int) -> str:
    return str(UUID(int=number))


def number(obj: Any) -> int:
    return UUID(str(obj.uuid)).int


@dataclass(frozen=True, slots=True)
class Target:
    url: str
    grpc_address: str
    api_key: str | None
    is_embedded: bool

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def connect(self, *, api_key: str | None = None, skip_init_checks: bool = True) -> Client:
        rest, (grpc_host, grpc_port) = urlsplit(self.url), self.grpc_address.rsplit(":", 1)
        key = api_key or self.api_key
        return weaviate.connect_to_custom(
            rest.hostname or "",
            rest.port or 80,
            rest.scheme == "https",
            grpc_host,
            int(grpc_port),
            False,
            auth_credentials=Auth.api_key(key) if key else None,
            skip_init_checks=skip_init_checks,
            additional_config=AdditionalConfig(timeout=Timeout(init=10)),
        )


def embedded(server: servers.RunningServer) -> Target:
    return Target(server.url, f"127.0.0.1:{server.ports['grpc']}", server.secrets["WEAVIATE_API_KEY"], True)


def only_embedded(target: Target) -> None:
    if not target.is_embedded:
        pytest.skip("the real server can do this")


PROPERTIES = [
    Property(name="object_id", data_type=DataType.UUID),
    Property(name="epoch", data_type=DataType.INT),
    Property(name="key", data_type=DataType.TEXT, tokenization=Tokenization.FIELD),
    Property(name="text", data_type=DataType.TEXT),
    Property(name="ratio", data_type=DataType.NUMBER),
    Property(name="flag", data_type=DataType.BOOL),
    Property(name="at", data_type=DataType.DATE),
    Property(name="metadata", data_type=DataType.TEXT_ARRAY, tokenization=Tokenization.FIELD),
    Property(name="hidden", data_type=DataType.TEXT, index_filterable=False, index_searchable=False),
]


def make(client: Client, name: str) -> Any:
    """Create a class with one unnamed vector and a property of every kind."""
    unnamed = Configure.Vectorizer.none()
    return client.collections.create(name, vectorizer_config=unnamed, properties=PROPERTIES)


def insert(collection: Any, *objects: DataObject[Any, Any]) -> dict[int, str]:
    """Insert a batch; return its errors by index."""
    return {at: error.message for at, error in collection.data.insert_many(list(objects)).errors.items()}


def item(n: int, vector: Any = None, **props: Any) -> DataObject[Any, Any]:
    return DataObject(props, uuid=uid(n), vector=vector)
