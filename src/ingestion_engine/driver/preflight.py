"""Preflight: what must be true before a job writes anything. Each failure is a FatalError with a code the API uses
too.
"""

from __future__ import annotations

from collections.abc import Mapping

from ingestion_engine.domain.errors import CollectionMissing, FatalError
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
    """Return the contract that this job's request amounts to. Pure but for the date."""
    request = spec.request
    options: dict[str, object] = {}
    return CollectionContract(
        collection=request.collection,
        bucket=request.source.bucket,
        stores=tuple(sorted(request.stores)),
        model=spec.model,
        model_digest=model.digest,
        dimension=model.dimension,
        embedding_id=make_embedding_id(model.digest, model.dimension, options, request.embedding.prefix),
        prefix=request.embedding.prefix,
        query_prefix=request.embedding.query_prefix,
        options=options,
        chunking=request.chunking,
        created_at=timestamp_now(),
        created_by=spec.job_id,
    )


def check_contract(store: StateStore, wanted: CollectionContract) -> CollectionContract | None:
    """Return the collection's contract when the job agrees with it, None when the collection is new. Writes nothing.

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
            f"The name {wanted.collection!r} differs only in case from {other!r}; Weaviate cannot tell them apart.",
            hint=f"Use {other!r}, or another name.",
        )
    if find_alias(store, wanted.collection) is not None:
        raise FatalError(
            "collection_name_taken",
            f"{wanted.collection!r} has become an alias since the job was submitted.",
            hint="Submit the job again: it then works on what the alias stands for.",
        )
    return None


def check_alias(store: StateStore, alias: str) -> None:
    """Return when nothing else has an alias's name. Raises FatalError ("alias_name_taken")."""
    other = find_alias_collision(store, alias)
    if other is not None:
        raise _alias_taken(alias, f"the existing {other!r}")


async def check_alias_in_stores(stores: Mapping[StoreName, VectorStore], alias: str) -> None:
    """Return when every store knows aliases and has no collection of that name. Two requests per store.

    Raises:
        FatalError: "alias_name_taken", "aliases_unsupported".
    """
    for name, vector_store in stores.items():
        await vector_store.list_aliases()
        if vector_store.spell(alias) in await vector_store.list_collections():
            raise _alias_taken(alias, f"a collection in {name.value}")


def _alias_taken(alias: str, by: str) -> FatalError:
    said = f"The name {alias!r} cannot be an alias: it collides with {by}."
    return FatalError("alias_name_taken", said, hint="Use another name, or drop what has it.", alias=alias)


def require_contract(store: StateStore, request: JobRequest) -> CollectionContract:
    """Return the contract of a collection that must exist; the rest of the request need not repeat it.

    Raises:
        FatalError: "collection_not_found"; "contract_mismatch" when it is about another bucket.
    """
    contract = read_contract(store, request.collection)
    if contract is None:
        raise FatalError("collection_not_found", f"There is no collection {request.collection!r}.")
    if contract.bucket not in {None, request.source.bucket}:
        raise FatalError(
            "contract_mismatch",
            f"Collection {request.collection!r} is of bucket {contract.bucket!r}, not {request.source.bucket!r}.",
        )
    return contract


async def ensure_collections(stores: Mapping[StoreName, VectorStore], contract: CollectionContract) -> None:
    """Make the collection exist in every store as agreed. Idempotent. Raises FatalError ("schema_mismatch")."""
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
    """Make the collection exist in every store as agreed, then make the contract durable. Idempotent.

    All stores are checked before the first is written.

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
                    f"{name} lost collection {wanted.collection!r}, but the object table lists objects in it.",
                    hint="Run the job once with mode=full to build it again.",
                    store=str(name),
                ) from error
    await ensure_collections(stores, agreed)
    created = create_contract(store, agreed)
    compare_contract(created, wanted)
    return created
