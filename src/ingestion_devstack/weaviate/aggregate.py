"""Aggregation in the Weaviate stand-in: counts, simple statistics of properties, groups by one property."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from weaviate.proto.v1 import aggregate_pb2

from ingestion_devstack.weaviate.database import Database
from ingestion_devstack.weaviate.messages import RequestRefusedError, UnsupportedError
from ingestion_devstack.weaviate.schema import Definition, find_property, no_such_property
from ingestion_devstack.weaviate.search import compile_where
from ingestion_devstack.weaviate.storage import Collection
from ingestion_devstack.weaviate.values import parse_date

_Reply = aggregate_pb2.AggregateReply
_Result = _Reply.Aggregations.Aggregation
_DEFAULT_TOP: Final = 5
_DEFAULT_GROUPS: Final = 100

Row = tuple[Any, ...]


def aggregate(database: Database, request: Any) -> Any:
    """One `weaviate.v1.AggregateRequest`.

    Counting without properties or groups is one SQL count; everything else reads the matching objects.

    Raises:
        UnknownClassError, RequestRefusedError: Weaviate would refuse it, too.
        UnsupportedError: a search inside an aggregation, a tenant, a reference.
    """
    started = time.perf_counter()
    collection = database.collection(request.collection)
    if request.WhichOneof("search") or request.HasField("object_limit"):
        raise UnsupportedError("aggregation over a search")
    if request.tenant:
        raise UnsupportedError("multi-tenancy")
    searching = "aggregate: shard main: retrieve doc IDs from searcher: "
    where = compile_where(request, collection, searching, "parse params: extract filters: ")
    names = [item.property for item in request.aggregations]
    group_by = request.group_by.property if request.HasField("group_by") else None
    props = [_property(collection, name) for name in (*names, *([group_by] if group_by else []))]
    reply = _Reply()
    if not props:
        reply.single_result.SetInParent()
        if request.objects_count:
            reply.single_result.objects_count = collection.count(where)
    else:
        wanted = [prop["name"] for prop in props]
        rows: list[Row] = [
            row for _, row in collection.pick(where, lambda _c, _u, values: tuple(values.get(name) for name in wanted))
        ]
        if group_by is None:
            _fill(reply.single_result, rows, request, props)
        else:
            _fill_groups(reply.grouped_results, rows, request, props)
    reply.took = time.perf_counter() - started
    return reply


def _property(collection: Collection, name: str) -> Definition:
    prop = find_property(collection.definition, name)
    if prop is None:
        raise RequestRefusedError(f"parse params: {no_such_property(collection.definition, name)}")
    return prop


def _fill(target: Any, rows: Sequence[Row], request: Any, props: Sequence[Definition]) -> None:
    if request.objects_count:
        target.objects_count = len(rows)
    target.aggregations.SetInParent()
    for at, wanted in enumerate(request.aggregations):
        values: list[Any] = []
        for row in rows:
            values += row[at] if isinstance(row[at], list) else [] if row[at] is None else [row[at]]
        target.aggregations.aggregations.append(_summary(wanted, values, props[at]))


def _fill_groups(target: Any, rows: Sequence[Row], request: Any, props: Sequence[Definition]) -> None:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        for value in row[-1] if isinstance(row[-1], list) else [] if row[-1] is None else [row[-1]]:
            groups.setdefault(value, []).append(row)
    limit = request.limit or _DEFAULT_GROUPS
    for value, members in sorted(groups.items(), key=lambda item: -len(item[1]))[:limit]:
        group = target.groups.add()
        group.grouped_by.path.append(props[-1]["name"])
        field = {bool: "boolean", int: "int", float: "number"}.get(type(value), "text")
        setattr(group.grouped_by, field, value)
        _fill(group, members, request, props)


def _summary(wanted: Any, values: list[Any], prop: Definition) -> Any:
    kind = wanted.WhichOneof("aggregation")
    asked = getattr(wanted, kind) if kind else None
    name = prop["name"]
    if kind == "int":
        return _Result(property=name, int=_numbers(asked, values, prop, _Result.Integer()))
    if kind == "number":
        return _Result(property=name, number=_numbers(asked, values, prop, _Result.Number()))
    if kind == "text":
        return _Result(property=name, text=_texts(asked, values, prop))
    if kind == "boolean":
        return _Result(property=name, boolean=_booleans(asked, values, prop))
    if kind == "date":
        return _Result(property=name, date=_dates(asked, values, prop))
    raise UnsupportedError("aggregating a reference")


def _numbers(asked: Any, values: list[Any], prop: Definition, out: Any) -> Any:
    if asked.count:
        out.count = len(values)
    if asked.type:
        out.type = prop["dataType"][0]
    if not values:
        return out
    ordered = sorted(values)
    results = {
        "sum": sum(values),
        "mean": statistics.fmean(values),
        "median": float(statistics.median(ordered)),
        "mode": statistics.mode(ordered),
        "maximum": ordered[-1],
        "minimum": ordered[0],
    }
    for field, value in results.items():
        if getattr(asked, field):
            setattr(out, field, value)
    return out


def _texts(asked: Any, values: list[Any], prop: Definition) -> Any:
    out = _Result.Text()
    if asked.count:
        out.count = len(values)
    if asked.type:
        out.type = prop["dataType"][0]
    if asked.top_occurences:
        limit = asked.top_occurences_limit or _DEFAULT_TOP
        ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
        out.top_occurences.SetInParent()
        for value, occurs in ranked[:limit]:
            out.top_occurences.items.add(value=value, occurs=occurs)
    return out


def _booleans(asked: Any, values: list[Any], prop: Definition) -> Any:
    out = _Result.Boolean()
    true = sum(values)
    results = {"count": len(values), "total_true": true, "total_false": len(values) - true}
    if asked.type:
        out.type = prop["dataType"][0]
    if values:
        share = true / len(values)
        for field, value in (("percentage_true", share), ("percentage_false", 1 - share)):
            if getattr(asked, field):
                setattr(out, field, value)
    for field, number in results.items():
        if getattr(asked, field):
            setattr(out, field, number)
    return out


def _dates(asked: Any, values: list[Any], prop: Definition) -> Any:
    out = _Result.Date()
    if asked.count:
        out.count = len(values)
    if asked.type:
        out.type = prop["dataType"][0]
    if values:
        ordered = sorted(values, key=lambda text: parse_date(text)[1])
        results = {
            "median": ordered[len(ordered) // 2],
            "mode": statistics.mode(ordered),
            "maximum": ordered[-1],
            "minimum": ordered[0],
        }
        for field, value in results.items():
            if getattr(asked, field):
                setattr(out, field, value)
    return out
