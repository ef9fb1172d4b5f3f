"""Preflight: the checks before a job writes anything. Each failure is a FatalError; the API uses the same codes."""

from __future__ import annotations

from collections.abc import Mapping

from ingestion_engine.domain.errors import CollectionMissing, FatalError, IngestionError, TlsFailed
from ingestion_engine.domain.ids import make_embedding_id
from ingestion_engine.domain.ports import StateStore, VectorStore
from ingestion_engine.domain.records import ModelInfo
from ingestion_engine.domain.spec import CollectionContract, JobRequest, JobSpec, Mode, StoreName
from ingestion_engine.runtime.timestamps import timestamp_now
from ingestion_engine.state.aliases import find_alias
from ingestion_engine.state.collections import (
    compare_contract,
    create_contract,
    find_alias_collision,
    find_name_collision,
    read_contract,
)


def wanted_contract(spec: JobSpec, model: ModelInfo) -> CollectionContract:
    """Return the collection contract that a job's request implies. Pure except for the date."""
    request = spec.request
    options: dict[str, object] = {}
    return CollectionContract(
        collection=request.collection,
        bucket=request.source.bucket,
        stores=tuple(sorted(request.stores)),
        model=spec.model,
        model_digest=model.digest,
        dimension=model.dimension,
        embedding_id=make_embedding_id(model.digest, model.dimension, options, prefix=request.embedding.prefix),
        prefix=request.embedding.prefix,
        query_prefix=request.embedding.query_prefix,
        options=options,
        chunking=request.chunking,
        created_at=timestamp_now(),
        created_by=spec.job_id,
    )


def check_contract(store: StateStore, wanted: CollectionContract) -> CollectionContract | None:
    """Return the collection's contract if the job agrees with it, None if the collection is new. Reads only.

    Raises:
        FatalError: "contract_mismatch", "collection_name_taken".
    """
    existing = read_contract(store, wanted.collection)
    if existing is not None:
        compare_contract(existing, wanted)
        return existing
    other = find_name_collision(store, wanted.collection)
    if other is not None:
        raise FatalError(
            "collection_name_taken",
            f"Collection name {wanted.collection!r} differs only in case from {other!r}, and Weaviate ignores case.",
            hint=f"Use {other!r} or a different name.",
        )
    if find_alias(store, wanted.collection) is not None:
        raise FatalError(
            "collection_name_taken",
            f"Collection {wanted.collection!r} has become an alias since the job was submitted.",
            hint="Submit the job again; it then works on the collection behind the alias.",
        )
    return None


def check_alias(store: StateStore, alias: str) -> None:
    """Return if the alias name is free in the state store. Raises FatalError ("alias_name_taken")."""
    other = find_alias_collision(store, alias)
    if other is not None:
        raise _alias_taken(alias, f"the existing name {other!r}")


async def check_alias_in_stores(stores: Mapping[StoreName, VectorStore], alias: str) -> None:
    """Return if every store supports aliases and has no collection of that name. Two requests per store.

    Raises:
        FatalError: "alias_name_taken", "aliases_unsupported".
    """
    for name, vector_store in stores.items():
        await vector_store.list_aliases()
        if vector_store.spell(alias) in await vector_store.list_collections():
            raise _alias_taken(alias, f"a collection in {name.value}")


def _alias_taken(alias: str, by: str) -> FatalError:
    message = f"Alias name {alias!r} collides with {by}."
    return FatalError("alias_name_taken", message, hint="Use another name, or delete what has this name.", alias=alias)


def require_contract(store: StateStore, request: JobRequest) -> CollectionContract:
    """Return the contract of an existing collection; the request does not have to repeat its settings.

    Raises:
        FatalError: "collection_not_found"; "contract_mismatch" if the collection belongs to another bucket.
    """
    contract = read_contract(store, request.collection)
    if contract is None:
        raise FatalError(
            "collection_not_found",
            f"Collection {request.collection!r} does not exist.",
            hint="List the collections and check the name.",
        )
    if contract.bucket not in {None, request.source.bucket}:
        raise FatalError(
            "contract_mismatch",
            f"Collection {request.collection!r} belongs to bucket {contract.bucket!r}, not {request.source.bucket!r}.",
            hint=f"Submit the job with source.bucket={contract.bucket!r}.",
        )
    return contract


async def check_certificates(stores: Mapping[StoreName, VectorStore]) -> None:
    """Return unless the certificate of a store is not accepted, on any of its ports. Two or three requests per store.

    Other failures are left to the requests that need the store, which may need less of it.

    Raises:
        TlsFailed: names the store.
    """
    for store in stores.values():
        try:
            await store.check()
        except TlsFailed:
            raise
        except IngestionError:
            continue


async def ensure_collections(stores: Mapping[StoreName, VectorStore], contract: CollectionContract) -> None:
    """Create the collection in every store, or check it against its contract.

    Idempotent. Raises FatalError ("schema_mismatch").
    """
    for store in stores.values():
        await store.ensure_collection(contract)


async def prepare_collection(
    store: StateStore,
    stores: Mapping[StoreName, VectorStore],
    wanted: CollectionContract,
    *,
    mode: Mode,
    has_objects: bool,
) -> CollectionContract:
    """Create or check the collection in every store, then write its contract. Idempotent.

    All stores are checked before the first one is written.

    Raises:
        FatalError: "contract_mismatch", "schema_mismatch".
        CollectionMissing: a store lost a collection although the object table lists objects in it; a sync would never
            write them again.
    """
    existing = check_contract(store, wanted)
    agreed = existing or wanted
    for name, vector_store in stores.items():
        try:
            await vector_store.check_collection(agreed)
        except CollectionMissing as error:
            if existing is not None and has_objects and mode is not Mode.FULL:
                raise CollectionMissing(
                    "collection_missing",
                    f"Collection {wanted.collection!r} is missing from {name}, but the object table lists its objects.",
                    hint="Submit the job once with mode=full to rebuild the collection.",
                    store=str(name),
                ) from error
    await ensure_collections(stores, agreed)
    created = create_contract(store, agreed)
    compare_contract(created, wanted)
    return created
