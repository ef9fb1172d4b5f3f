"""Aliases of every VectorStore, on the servers of ``test_vector_store``."""

from __future__ import annotations

import pytest

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ports import VectorStore
from ingestion_engine.domain.spec import CollectionContract
from support.vector_stores import make_contract, make_point


async def test_an_alias_stands_for_one_collection_after_another(
    store: VectorStore, contract: CollectionContract
) -> None:
    """Set twice, moved, listed in the store's spelling, dropped twice; the collection is kept."""
    second = make_contract(f"{contract.collection}_b")
    alias = f"{contract.collection}_alias"
    try:
        await store.ensure_collection(contract)
        await store.ensure_collection(second)
        for target in (contract.collection, contract.collection, second.collection):
            await store.set_alias(alias, target)
            assert (await store.list_aliases())[store.spell(alias)] == store.spell(target)
        await store.upsert(second.collection, [make_point("a.txt", 0)])
        assert await store.count(alias) == 1
        await store.drop_alias(alias)
        await store.drop_alias(alias)
        assert store.spell(alias) not in await store.list_aliases()
        assert store.spell(second.collection) in await store.list_collections()
    finally:
        await store.drop_alias(alias)
        await store.drop_collection(second.collection)


async def test_an_alias_needs_a_collection_and_a_name_of_its_own(
    store: VectorStore, contract: CollectionContract
) -> None:
    """A refused move leaves the alias where it was."""
    alias = f"{contract.collection}_alias"
    await store.ensure_collection(contract)
    with pytest.raises(FatalError) as missing:
        await store.set_alias(alias, f"{contract.collection}_absent")
    assert missing.value.code == "collection_missing"
    with pytest.raises(FatalError) as taken:
        await store.set_alias(contract.collection, contract.collection)
    assert taken.value.code == "alias_name_taken"
    try:
        await store.set_alias(alias, contract.collection)
        with pytest.raises(FatalError):
            await store.set_alias(alias, f"{contract.collection}_absent")
        assert (await store.list_aliases())[store.spell(alias)] == store.spell(contract.collection)
    finally:
        await store.drop_alias(alias)
