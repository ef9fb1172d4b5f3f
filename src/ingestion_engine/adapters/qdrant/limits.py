"""Limits of a collection's strict mode: what requests must keep to, and what makes jobs impossible. Pure.

Source: Qdrant 1.19, lib/collection/src/operations/verification and src/common/update.rs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingestion_engine.adapters.qdrant.schema import DELETE_FIELDS, INDEXES, JOB_FIELDS
from ingestion_engine.domain.errors import FatalError

CONDITIONS = 2
"""Conditions of a job's filters: the objects, and a range of chunks or epochs. A search has one for each field that it
names, and Qdrant's refusal of too many names the limit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What strict mode allows; None means no limit."""

    timeout_s: int | None = None
    """Longest time limit that a request may name, in seconds."""
    query_limit: int | None = None
    """Most points of a page."""
    condition_size: int | None = None
    """Most values of one condition."""
    conditions: int | None = None
    """Most conditions of a filter."""
    exact: bool = True
    """Whether points may be counted exactly."""
    upsert_points: int | None = None
    """Most points of a write."""
    writes_per_minute: int | None = None
    """Also the most points that one request may write or delete."""
    reads_per_minute: int | None = None
    """Also the most points that one request may read by id."""
    indexes: int | None = None
    """Most payload indexes."""
    filters_unindexed: bool = True
    """Whether reads may filter by a field without an index."""
    deletes_unindexed: bool = True
    """Whether deletions may filter by a field without an index."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Limits:
        """Return the limits in a response of ``GET /collections/{name}``."""
        strict = info["config"].get("strict_mode_config") or {}
        if not strict.get("enabled"):
            return cls()
        return cls(
            timeout_s=strict.get("max_timeout"),
            query_limit=strict.get("max_query_limit"),
            condition_size=strict.get("condition_max_size"),
            conditions=strict.get("filter_max_conditions"),
            exact=strict.get("search_allow_exact") is not False,
            upsert_points=strict.get("upsert_max_batchsize"),
            writes_per_minute=strict.get("write_rate_limit"),
            reads_per_minute=strict.get("read_rate_limit"),
            indexes=strict.get("max_payload_index_count"),
            filters_unindexed=strict.get("unindexed_filtering_retrieve") is not False,
            deletes_unindexed=strict.get("unindexed_filtering_update") is not False,
        )

    def missing_indexes(self, existing: Mapping[str, Any]) -> list[str]:
        """Return the fields that still can and should be indexed, the most important ones first."""
        missing = [field for field in INDEXES if field not in existing]
        return missing if self.indexes is None else missing[: max(0, self.indexes - len(existing))]

    def check(self, existing: Mapping[str, Any], *, collection: str, url: str) -> None:
        """Check that jobs can work within the limits, given the collection's indexes.

        Raises:
            FatalError: "qdrant_refused", naming each limit that does not allow it and the least value that does.
        """
        indexed = {*existing, *self.missing_indexes(existing)}
        required = (() if self.deletes_unindexed else DELETE_FIELDS) + (() if self.filters_unindexed else JOB_FIELDS)
        problems = []
        if any(field not in indexed for field in required):
            most = len(existing) + len([field for field in JOB_FIELDS if field not in existing])
            problems.append(("max_payload_index_count", self.indexes, most))
        if self.conditions is not None and self.conditions < CONDITIONS:
            problems.append(("filter_max_conditions", self.conditions, CONDITIONS))
        if self.condition_size is not None and self.condition_size < 1:
            problems.append(("condition_max_size", self.condition_size, 1))
        for name, value in (("max_query_limit", self.query_limit), ("upsert_max_batchsize", self.upsert_points)):
            if value is not None and value < 1:
                problems.append((name, value, 1))
        if problems:
            stated = ", ".join(f"{name} is {value} and must be at least {least}" for name, value, least in problems)
            message = f"The strict mode of collection '{collection}' in Qdrant at {url} allows no jobs: {stated}."
            hint = "Raise these limits of the collection's strict_mode_config."
            limits = {name: value for name, value, _ in problems}
            raise FatalError("qdrant_refused", message, hint=hint, collection=collection, url=url, limits=limits)


def least(*values: int | None) -> int:
    """Return the smallest of some limits; None means no limit, and at least one is given."""
    return min(value for value in values if value is not None)
