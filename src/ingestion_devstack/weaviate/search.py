"""Search requests of the Weaviate stand-in: list, cursor, sort, near-vector, near-object."""

from __future__ import annotations

from functools import cmp_to_key
from typing import Any, Final

import numpy as np

from ingestion_devstack.weaviate.database import Database
from ingestion_devstack.weaviate.filters import Compiled, compile_filter
from ingestion_devstack.weaviate.messages import (
    RequestRefusedError,
    UnsupportedError,
    distance_of,
    select_properties,
    write_result,
)
from ingestion_devstack.weaviate.operands import FilterError, FilterSearchError
from ingestion_devstack.weaviate.records import StoredObject, WrongDimensionError
from ingestion_devstack.weaviate.schema import Definition, find_property, no_such_property
from ingestion_devstack.weaviate.storage import Collection
from ingestion_devstack.weaviate.values import PropertyError, parse_date, parse_uuid
from ingestion_devstack.weaviate.vectors import Floats

MAXIMUM_RESULTS: Final = 10_000
"""Weaviate's QUERY_MAXIMUM_RESULTS: the bound of offset + limit, and of one batch delete."""
DEFAULT_LIMIT: Final = 10
"""Weaviate's QUERY_DEFAULTS_LIMIT."""

_LIST: Final = "explorer: list class: search: "
_NEAR: Final = "explorer: get class: concurrentTargetVectorSearch): explorer: get class: "
_UNSUPPORTED: Final = {
    "hybrid_search": "hybrid search",
    "bm25_search": "keyword search (bm25)",
    "near_text": "near_text (there is no vectorizer)",
    "near_image": "near_image",
    "near_audio": "near_audio",
    "near_video": "near_video",
    "near_depth": "near_depth",
    "near_thermal": "near_thermal",
    "near_imu": "near_imu",
    "generative": "generative search",
    "rerank": "reranking",
    "group_by": "group_by",
    "boost": "boost",
}


def search(database: Database, request: Any) -> list[Any]:
    """The hits of one `weaviate.v1.SearchRequest` as `SearchResult`s.

    Raises:
        UnknownClassError, RequestRefusedError: Weaviate would refuse it, too.
        UnsupportedError: only the embedded one refuses it.
    """
    collection = database.collection(request.collection)
    definition = collection.definition
    _refuse_unsupported(request)
    for field in ("near_vector", "near_object"):
        if request.HasField(field):
            distance_of(getattr(request, field), definition)
    selected = select_properties(request, definition)
    near = request.HasField("near_vector") or request.HasField("near_object")
    if near and request.sort_by:
        raise RequestRefusedError("sorting cannot be combined with search")
    where = compile_where(request, collection, _place(collection, near=near))
    limit = request.limit or DEFAULT_LIMIT
    _check_sort(request, definition)
    _check_cursor(request)
    if request.offset + limit > MAXIMUM_RESULTS:
        raise RequestRefusedError(
            f"{_NEAR + 'vector search: ' if near else _LIST}invalid pagination params: query maximum results exceeded: "
            f"the total limit calculated from the provided offset '{request.offset}' and limit '{limit}' exceeds the "
            f"configured value for QUERY_MAXIMUM_RESULTS '{MAXIMUM_RESULTS}'. "
            "If you've supplied a negative offset or limit, this may be an underflow error"
        )
    if near:
        found = _near(collection, request, limit, where)
    elif request.sort_by:
        docs = _sorted(collection, request, where)[request.offset : request.offset + limit]
        found = collection.read(docs)
    else:
        after = parse_uuid(request.after)[1] if request.after else None
        found = collection.page(where, limit, request.offset, after)
    return [write_result(item, selected, request, definition) for item in found]


def _refuse_unsupported(request: Any) -> None:
    if request.tenant:
        raise UnsupportedError("multi-tenancy")
    if request.autocut:
        raise UnsupportedError("autocut")
    for field, name in _UNSUPPORTED.items():
        if request.HasField(field):
            raise UnsupportedError(name)


def _place(collection: Collection, *, near: bool) -> str:
    index = collection.definition["class"].lower()
    if near:
        place = f"{_NEAR}vector search: object vector search at index {index}: shard main"
        return f"{place}: build inverted filter allow list: "
    return f"{_LIST}object search at index {index}: local shard main search {index}_main: "


def compile_where(request: Any, collection: Collection, searching: str, parsing: str = "") -> Compiled | None:
    """The request's filter, if it has one; the texts prefix what fails in searching and in parsing.

    Raises:
        RequestRefusedError: the filter does not fit the class.
    """
    if not request.HasField("filters"):
        return None
    try:
        return compile_filter(request.filters, collection.definition, collection.columns)
    except FilterSearchError as error:
        raise RequestRefusedError(f"{searching}{error}") from None
    except FilterError as error:
        raise RequestRefusedError(f"{parsing}{error}") from None


# -- order -------------------------------------------------------------------------------------------------------


def _check_sort(request: Any, definition: Definition) -> None:
    for at, sort in enumerate(request.sort_by):
        place = f"invalid 'sort' parameter: sort parameter at position {at}"
        if len(sort.path) != 1:
            raise RequestRefusedError(
                f"{place}: sorting by reference not supported, path must have exactly one argument"
            )
        name = sort.path[0]
        if name in ("_id", "id", "_creationTimeUnix", "_lastUpdateTimeUnix"):
            continue
        prop = find_property(definition, name)
        if prop is None:
            raise RequestRefusedError(f"{place}: {no_such_property(definition, name)}")
        if prop["dataType"][0].startswith("uuid"):
            raise RequestRefusedError(
                f'{place}: prop "{name}" is of type uuid/uuid[]: sorting by uuid is currently not supported - if you '
                "believe it should be, please open a feature request on github.com/weaviate/weaviate"
            )


def _check_cursor(request: Any) -> None:
    if not request.after:
        return
    place = "cursor api: invalid 'after' parameter"
    given = {"offset": request.offset > 0, "where": request.HasField("filters"), "sort": bool(request.sort_by)}
    if any(given.values()):
        names = ",".join(name for name, present in given.items() if present)
        raise RequestRefusedError(f"{place}: {names} cannot be set with after and limit parameters")
    try:
        parse_uuid(request.after)
    except PropertyError as error:
        raise RequestRefusedError(f"{place}: after parameter '{request.after}' is not a valid uuid: {error}") from None


def _sorted(collection: Collection, request: Any, where: Compiled | None) -> list[int]:
    """Document numbers in the order asked for: missing values first when ascending; ties by id."""
    keys = [(sort.path[0], -1 if not sort.ascending else 1) for sort in request.sort_by]
    kinds = {prop["name"]: prop["dataType"][0] for prop in collection.definition.get("properties") or ()}

    def take(created: int, updated: int, props: dict[str, Any]) -> tuple[Any, ...]:
        internal = {"_creationTimeUnix": created, "_lastUpdateTimeUnix": updated}
        return tuple(
            internal[name] if name in internal else _sort_value(kinds.get(name), props.get(name)) for name, _ in keys
        )

    rows = list(enumerate(collection.pick(where, take)))

    def compare(a: tuple[int, tuple[int, tuple[Any, ...]]], b: tuple[int, tuple[int, tuple[Any, ...]]]) -> int:
        for (name, direction), left, right in zip(keys, a[1][1], b[1][1], strict=True):
            order = a[0] - b[0] if name in ("_id", "id") else _compare(left, right)
            if order:
                return order * direction
        return a[0] - b[0]

    return [doc for _, (doc, _) in sorted(rows, key=cmp_to_key(compare))]


def _compare(a: Any, b: Any) -> int:
    if a is None or b is None:
        return (a is not None) - (b is not None)
    return int(a > b) - int(a < b)


def _sort_value(kind: str | None, value: Any) -> Any:
    if value is None or kind in (None, "object", "object[]"):
        return None
    if isinstance(value, list):
        return [_sort_value(kind.removesuffix("[]") if kind else None, item) for item in value]
    if kind == "date":
        return parse_date(value)[1]
    return value.lower() if isinstance(value, str) else value


# -- near --------------------------------------------------------------------------------------------------------


def _near(collection: Collection, request: Any, limit: int, where: Compiled | None) -> list[StoredObject]:
    by_vector = request.HasField("near_vector")
    wanted = request.near_vector if by_vector else request.near_object
    kind = "near_vector" if by_vector else "near_object"
    space, distance = distance_of(wanted, collection.definition)
    if wanted.HasField("selection"):
        raise UnsupportedError("diversity selection (MMR)")
    if wanted.HasField("distance") and wanted.HasField("certainty"):
        raise RequestRefusedError(f"{kind}: cannot provide distance and certainty")
    within = wanted.distance if wanted.HasField("distance") else None
    if wanted.HasField("certainty"):
        if distance != "cosine":
            text = f"can't compute and return certainty when vector index is configured with {distance} distance"
            raise RequestRefusedError(text)
        within = (1.0 - wanted.certainty) * 2.0
    query = _query_vector(wanted, space) if by_vector else _vector_of(collection, wanted, space)
    try:
        return collection.nearest(space, query, limit, offset=request.offset, within=within, where=where)
    except WrongDimensionError as error:
        index = collection.definition["class"].lower()
        raise RequestRefusedError(
            f"{_NEAR}vector search: object vector search at index {index}: shard main: vector search: knn search: "
            f"distance between entrypoint and query node: {error.expected} vs {error.got}: vector lengths don't match"
        ) from None


def _query_vector(near: Any, space: str) -> Floats:
    """The query, from whichever of the protocol's five places the client uses."""
    packed: bytes = near.vector_bytes
    for vector in near.vectors:
        if vector.type == vector.VECTOR_TYPE_MULTI_FP32:
            raise UnsupportedError("a multi-vector")
        packed = vector.vector_bytes
    for target in near.vector_for_targets:
        if target.name == space or not packed:
            packed = target.vectors[0].vector_bytes if target.vectors else target.vector_bytes
    if not packed and near.vector_per_target:
        packed = near.vector_per_target.get(space, b"")
    if packed:
        return np.frombuffer(packed, dtype="<f4")
    if near.vector:
        return np.asarray(near.vector, dtype=np.float32)
    raise RequestRefusedError("near_vector: vector is required")


def _vector_of(collection: Collection, near: Any, space: str) -> Floats:
    if not near.id:
        raise RequestRefusedError("near_object: id is required")
    try:
        item = collection.get(parse_uuid(near.id)[1])
    except PropertyError as error:
        raise RequestRefusedError(f"near_object: {error}") from None
    if item is None or space not in item.vectors:
        raise RequestRefusedError(f"{_NEAR}vectorize search vector: nearObject params: vector not found")
    return np.frombuffer(item.vectors[space], dtype="<f4")
