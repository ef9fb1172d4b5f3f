"""Collections that somebody else made: which of them can hold the vectors, and how far their limits are kept."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ingestion_engine.adapters.connect import open_stores
from ingestion_engine.adapters.qdrant import schema as qdrant_schema
from ingestion_engine.adapters.qdrant.store import QdrantStore
from ingestion_engine.adapters.weaviate import schema as weaviate_schema
from ingestion_engine.adapters.weaviate.store import WeaviateStore
from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.ids import make_object_id
from ingestion_engine.domain.spec import CollectionContract, StoreName
from ingestion_engine.runtime.settings import QdrantSettings, Settings, WeaviateSettings
from support.answering import serving
from support.vector_stores import DIMENSION, EVERYTHING, make_contract, make_point, make_settings, make_vector, read_all

VECTORS = {"size": DIMENSION, "distance": "Cosine"}
POINTS = [make_point(f"{'abcde'[number % 5]}.txt", number) for number in range(40)]
OBJECTS = [make_object_id("docs", f"{letter}.txt") for letter in "abcde"]


WRAPPED = (
    "Wrong input: 1 out of 1 shards failed to apply operation. First error captured: Wrong input: "
    "Vector dimension error: expected dim: 4, got 16"
)


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    return make_settings(request)


@pytest.fixture
async def qdrant(settings: Settings) -> AsyncIterator[QdrantStore]:
    store = open_stores(settings, [StoreName.QDRANT])[StoreName.QDRANT]
    assert isinstance(store, QdrantStore)
    yield store
    await store.close()


@pytest.fixture
async def contract(qdrant: QdrantStore) -> AsyncIterator[CollectionContract]:
    contract = make_contract(f"schemas_{uuid.uuid4().hex[:12]}")
    yield contract
    await qdrant.drop_collection(contract.collection)


async def create(store: QdrantStore, contract: CollectionContract, **body: Any) -> None:
    await store._call("PUT", f"/collections/{contract.collection}", {"vectors": VECTORS, **body}, write=True)


class TestQdrantSchema:
    """What changes vectors is refused, what changes speed and memory is allowed."""

    @pytest.mark.parametrize("datatype", ["float16", "uint8"])
    async def test_a_collection_that_loses_precision(
        self, qdrant: QdrantStore, contract: CollectionContract, datatype: str
    ) -> None:
        """It would take the vectors, and every comparison would find all of them different."""
        await create(qdrant, contract, vectors={**VECTORS, "datatype": datatype})
        for check in (qdrant.check_collection, qdrant.ensure_collection):
            with pytest.raises(FatalError, match=rf"vector datatype {datatype}; expected float32") as mismatch:
                await check(contract)
            assert mismatch.value.code == "schema_mismatch"

    @pytest.mark.parametrize(
        "body",
        [
            {"vectors": {**VECTORS, "datatype": "float32", "on_disk": True}},
            {"quantization_config": {"scalar": {"type": "int8"}}, "hnsw_config": {"m": 8}},
            {"shard_number": 2, "on_disk_payload": False},
        ],
    )
    async def test_a_collection_that_keeps_the_vectors(
        self, qdrant: QdrantStore, contract: CollectionContract, body: dict[str, Any]
    ) -> None:
        """Its indexes are added, and vectors read back as they were written."""
        await create(qdrant, contract, **body)
        await qdrant.ensure_collection(contract)
        await qdrant.upsert(contract.collection, POINTS)
        found = {point.id: point.vector for point in await read_all(qdrant, contract.collection)}
        assert all(abs(found[point.id] - point.vector).max() < 1e-6 for point in POINTS)

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"vectors": {"text": VECTORS}}, "vectors ['text']; expected one without a name"),
            ({"vectors": {"size": VECTORS}}, "vectors ['size']; expected one without a name"),
            ({"vectors": {}}, "vectors None; expected one without a name"),
            ({"vectors": {**VECTORS, "multivector_config": {"comparator": "max_sim"}}}, "vectors multivectors"),
            ({"vectors": {**VECTORS, "datatype": "turbo4"}}, "vector datatype turbo4"),
            ({"vectors": {**VECTORS, "distance": "Dot"}}, "vector distance Dot"),
            ({"vectors": VECTORS, "sharding_method": "custom"}, "sharding_method custom"),
        ],
    )
    def test_definitions_that_cannot_hold_the_vectors(self, params: dict[str, Any], words: str) -> None:
        """Each is named with its value."""
        info = {"config": {"params": params}, "payload_schema": {}}
        with pytest.raises(FatalError) as mismatch:
            qdrant_schema.check_definition(info, make_contract("docs"))
        assert mismatch.value.code == "schema_mismatch"
        assert words in mismatch.value.message

    async def test_settings_of_new_collections(self, settings: Settings, contract: CollectionContract) -> None:
        """Shards, replicas and quantisation of the settings are those of the collection."""
        creation = {"shards": 2, "replication_factor": 1, "quantization": "scalar"}
        chosen = settings.model_copy(update={"qdrant": settings.qdrant.model_copy(update=creation)})
        store = open_stores(chosen, [StoreName.QDRANT])[StoreName.QDRANT]
        assert isinstance(store, QdrantStore)
        await store.ensure_collection(contract)
        config = (await store._call("GET", f"/collections/{contract.collection}"))["config"]
        assert (config["params"]["shard_number"], config["params"]["replication_factor"]) == (2, 1)
        assert config["quantization_config"]["scalar"]["type"] == "int8"
        await store.close()

    @pytest.mark.parametrize(
        "text",
        [
            "Wrong input: Not existing vector name error: ",
            "Wrong input: Conversion between multi and regular vectors failed",
            WRAPPED,
            "Bad request: Shard key not specified",
        ],
    )
    async def test_a_wrong_schema_costs_one_request(self, text: str) -> None:
        """No point is to blame, so the batch is not halved to find it."""
        calls: list[bytes] = []

        def refuse(body: bytes) -> tuple[int, Any]:
            calls.append(body)
            return 400, {"status": {"error": text}, "time": 0.0}

        with serving({"*": refuse}) as url:
            store = QdrantStore(url)
            with pytest.raises(FatalError) as mismatch:
                await store.upsert("docs", POINTS)
            await store.close()
        assert mismatch.value.code == "schema_mismatch"
        assert len(calls) == 1


STRICT: dict[str, dict[str, Any]] = {
    "max_timeout": {"max_timeout": 10},
    "max_query_limit": {"max_query_limit": 7},
    "condition_max_size": {"condition_max_size": 2},
    "search_allow_exact": {"search_allow_exact": False},
    "max_payload_index_count": {"max_payload_index_count": 2, "unindexed_filtering_update": False},
    "upsert_max_batchsize": {"upsert_max_batchsize": 6},
    "filter_max_conditions": {"filter_max_conditions": 2},
    "no unindexed filters": {"unindexed_filtering_retrieve": False, "unindexed_filtering_update": False},
    "rates below one request": {"write_rate_limit": 3000, "read_rate_limit": 300},
}
ALL_LIMITS = {name: value for limits in STRICT.values() for name, value in limits.items()} | {
    "max_payload_index_count": 6
}


class TestQdrantStrictMode:
    """Limits are read once and kept."""

    @pytest.mark.parametrize("limits", [*STRICT.values(), ALL_LIMITS], ids=[*STRICT, "all"])
    async def test_a_job_keeps_to_the_limits(
        self, qdrant: QdrantStore, contract: CollectionContract, limits: dict[str, Any]
    ) -> None:
        """Everything that a job does works: also a deletion of more objects than a condition may name."""
        name = contract.collection
        await create(qdrant, contract, strict_mode_config={"enabled": True, **limits})
        await qdrant.ensure_collection(contract)
        await qdrant.check_collection(contract)
        await _work(qdrant, name)

    @pytest.mark.parametrize("limits", [*STRICT.values(), ALL_LIMITS], ids=[*STRICT, "all"])
    async def test_an_adapter_that_checked_nothing_learns_them(
        self, settings: Settings, qdrant: QdrantStore, contract: CollectionContract, limits: dict[str, Any]
    ) -> None:
        """The service counts and searches without a check before; the first refusal makes it read the limits."""
        await create(qdrant, contract, strict_mode_config={"enabled": True, **limits})
        await qdrant.ensure_collection(contract)
        fresh = open_stores(settings, [StoreName.QDRANT])[StoreName.QDRANT]
        assert isinstance(fresh, QdrantStore)
        await _work(fresh, contract.collection)
        await fresh.close()

    @pytest.mark.parametrize(
        ("limits", "named"),
        [
            ({"filter_max_conditions": 1}, "filter_max_conditions is 1 and must be at least 2"),
            ({"condition_max_size": 0}, "condition_max_size is 0 and must be at least 1"),
            (
                {"max_payload_index_count": 1, "unindexed_filtering_update": False},
                "max_payload_index_count is 1 and must be at least 3",
            ),
        ],
    )
    async def test_limits_that_allow_no_job_are_one_clear_error(
        self, qdrant: QdrantStore, contract: CollectionContract, limits: dict[str, Any], named: str
    ) -> None:
        """It names limit and value before anything is written, also an index."""
        await create(qdrant, contract, strict_mode_config={"enabled": True, **limits})
        for check in (qdrant.check_collection, qdrant.ensure_collection):
            with pytest.raises(FatalError) as refused:
                await check(contract)
            assert refused.value.code == "qdrant_refused"
            assert named in refused.value.message
            assert refused.value.hint
        info = await qdrant._call("GET", f"/collections/{contract.collection}")
        assert info["payload_schema"] == {}

    async def test_a_disabled_strict_mode_limits_nothing(
        self, qdrant: QdrantStore, contract: CollectionContract
    ) -> None:
        """Its numbers are only settings."""
        await create(qdrant, contract, strict_mode_config={"enabled": False, "filter_max_conditions": 1})
        await qdrant.ensure_collection(contract)

    @pytest.mark.parametrize(
        "text",
        [
            'Bad request: Limit exceeded 30 > 10 for "timeout". Help: Reduce the "timeout" parameter to or below 10.',
            "Bad request: Max points count limit of 100 reached!",
        ],
    )
    async def test_a_limit_that_cannot_be_kept_has_a_hint_and_blames_no_point(self, text: str) -> None:
        """The batch is not halved."""
        writes: list[bytes] = []

        def answer(body: bytes) -> tuple[int, Any]:
            if body:
                writes.append(body)
                return 400, {"status": {"error": text}, "time": 0.0}
            return 200, {
                "result": {"config": {"params": {"vectors": VECTORS}}, "payload_schema": {}},
                "status": "ok",
                "time": 0.1,
            }

        with serving({"*": answer}) as url:
            store = QdrantStore(url)
            with pytest.raises(FatalError) as refused:
                await store.upsert("docs", POINTS)
            await store.close()
        assert refused.value.code == "qdrant_refused"
        assert "strict_mode_config" in refused.value.hint
        assert len(writes) == 1


async def _work(store: QdrantStore, name: str) -> None:
    """Write, read and delete as jobs and the service do."""
    ids = [point.id for point in POINTS]
    await store.upsert(name, POINTS)
    assert await store.count(name) == len(POINTS)
    assert {point.id for point in await store.read_points(name, ids, with_vectors=True)} == set(ids)
    assert {point.id for point in await store.read_object_points(name, OBJECTS, first_chunk=0, end_chunk=99)} == set(
        ids
    )
    assert [point.id for point in await read_all(store, name)] == sorted(ids)
    assert await store.search(name, make_vector(1), limit=5, where=EVERYTHING)
    await store.delete_object_points(name, OBJECTS[:4], before_epoch=2)
    assert await store.count(name) == len(POINTS) // 5
    await store.delete_points(name, ids)
    assert await store.count(name) == 0


class TestWeaviateSchema:
    """The class of a contract, and what differs from it."""

    @pytest.mark.parametrize(
        "index",
        [
            {"rq": {"enabled": True, "bits": 8}},
            {"pq": {"enabled": True}, "ef": 100},
            {"sq": {"enabled": True}},
            {"bq": {"enabled": True}, "multivector": {"enabled": False}},
        ],
    )
    def test_compression_is_allowed(self, index: dict[str, Any]) -> None:
        """The originals stay with the objects."""
        contract = make_contract("docs")
        found = weaviate_schema.make_definition(contract)
        found["vectorIndexConfig"] |= index
        weaviate_schema.check_definition({**found, "replicationConfig": {"factor": 3}}, contract)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"vectorIndexConfig": {"distance": "dot"}}, "distance dot"),
            ({"vectorIndexConfig": {"distance": "cosine", "multivector": {"enabled": True}}}, "vectors multivectors"),
            ({"vectorIndexConfig": {"distance": "cosine", "skip": True}}, "vectorIndexConfig.skip True"),
            ({"vectorizer": "text2vec-openai"}, "vectorizer text2vec-openai"),
            ({"vectorConfig": {"default": {}}, "vectorizer": None}, "vectors ['default']"),
            ({"multiTenancyConfig": {"enabled": True}}, "multiTenancyConfig.enabled True"),
        ],
    )
    def test_definitions_that_cannot_hold_the_points(self, changes: dict[str, Any], words: str) -> None:
        """Each is named with its value."""
        contract = make_contract("docs")
        with pytest.raises(FatalError) as mismatch:
            weaviate_schema.check_definition({**weaviate_schema.make_definition(contract), **changes}, contract)
        assert mismatch.value.code == "schema_mismatch"
        assert words in mismatch.value.message

    def test_a_property_that_no_filter_finds(self) -> None:
        """Jobs delete by it."""
        contract = make_contract("docs")
        found = weaviate_schema.make_definition(contract)
        for entry in found["properties"]:
            if entry["name"] == "object_id":
                entry["indexFilterable"] = False
        with pytest.raises(FatalError, match="indexFilterable of property object_id False; expected True"):
            weaviate_schema.check_definition(found, contract)

    async def test_settings_of_new_classes(self, settings: Settings, contract: CollectionContract) -> None:
        """Shards, replicas and compression of the settings are those of the class."""
        creation = {"shards": 2, "replication_factor": 1, "quantization": "rq"}
        chosen = settings.model_copy(update={"weaviate": settings.weaviate.model_copy(update=creation)})
        store = open_stores(chosen, [StoreName.WEAVIATE])[StoreName.WEAVIATE]
        assert isinstance(store, WeaviateStore)
        try:
            await store.ensure_collection(contract)
            found = await store._read_class(contract.collection)
            assert found["shardingConfig"]["desiredCount"] == 2
            assert found["replicationConfig"]["factor"] == 1
            assert found["vectorIndexConfig"]["rq"]["enabled"]
        finally:
            await store.drop_collection(contract.collection)
            await store.close()

    async def test_a_class_of_an_earlier_release(self, settings: Settings, contract: CollectionContract) -> None:
        """It is read and written as it is; the next job adds the property that it lacks, once."""
        store = open_stores(settings, [StoreName.WEAVIATE])[StoreName.WEAVIATE]
        assert isinstance(store, WeaviateStore)
        definition = weaviate_schema.make_definition(contract)
        definition["properties"] = [entry for entry in definition["properties"] if entry["name"] != "context"]
        plain, explained = make_point("a.txt", 0), make_point("a.txt", 1, context="| City | Inhabitants |")
        name = contract.collection
        try:
            await store._request("POST", "/v1/schema", definition)
            await store.check_collection(contract)
            await store.upsert(name, [plain])
            assert [dict(point.payload) for point in await read_all(store, name)] == [plain.payload]
            assert await store.search(name, make_vector(1), limit=5, where=EVERYTHING)
            for _ in range(2):
                await store.ensure_collection(contract)
            await store.upsert(name, [explained])
            found = {point.id: dict(point.payload) for point in await read_all(store, name)}
            assert found == {plain.id: plain.payload, explained.id: explained.payload}
            created = await store._read_class(name)
            (entry,) = [entry for entry in created["properties"] if entry["name"] == "context"]
            assert (entry["tokenization"], entry["indexFilterable"]) == ("word", False)
        finally:
            await store.drop_collection(name)
            await store.close()

    def test_a_property_that_a_worker_wrote_before_the_job_added_it(self) -> None:
        """Auto-schema guesses what is compared of it."""
        contract = make_contract("docs")
        found = weaviate_schema.make_definition(contract)
        guessed = {"name": "context", "dataType": ["text"], "tokenization": "word", "indexFilterable": True}
        found["properties"] = [guessed if entry["name"] == "context" else entry for entry in found["properties"]]
        weaviate_schema.check_definition(found, contract)
        assert weaviate_schema.find_missing(found) == []

    def test_no_compression(self) -> None:
        """Newer servers compress by default."""
        creation = WeaviateSettings(quantization="none")
        assert weaviate_schema.make_definition(make_contract("docs"), creation)["vectorIndexConfig"] == {
            "distance": "cosine",
            "skipDefaultQuantization": True,
        }

    async def test_a_class_made_by_auto_schema_is_a_mismatch(
        self, settings: Settings, contract: CollectionContract
    ) -> None:
        """A dropped class comes back with the next object of a writer that does not check."""
        store = open_stores(settings, [StoreName.WEAVIATE])[StoreName.WEAVIATE]
        try:
            await store.upsert(contract.collection, POINTS)
            with pytest.raises(FatalError) as mismatch:
                await store.check_collection(contract)
            assert mismatch.value.code == "schema_mismatch"
        finally:
            await store.drop_collection(contract.collection)
            await store.close()


def test_settings_of_new_collections_reach_the_driver() -> None:
    """They are part of every spec when they are set, because the driver creates collections elsewhere."""
    plain, chosen = (
        Settings(),
        Settings(
            qdrant=QdrantSettings(shards=3, quantization="binary"), weaviate=WeaviateSettings(replication_factor=2)
        ),
    )
    assert plain.endpoints()["qdrant"] == {"url": None}
    there = plain.with_endpoints(chosen.endpoints())
    assert (there.qdrant.shards, there.qdrant.quantization, there.weaviate.replication_factor) == (3, "binary", 2)
