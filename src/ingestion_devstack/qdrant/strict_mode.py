"""Strict mode of a collection of the Qdrant stand-in: limits on requests, and rates per minute.

Imitates Qdrant 1.19, lib/collection/src/operations/verification, src/common/update.rs and
lib/common/common/src/rate_limiting.rs. Limits on memory and storage are refused by name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ingestion_devstack.qdrant.errors import RequestRefusedError, check_fields, check_type

_NUMBERS: Final = (
    *("max_query_limit", "max_timeout", "upsert_max_batchsize", "filter_max_conditions", "condition_max_size"),
    *("max_payload_index_count", "read_rate_limit", "write_rate_limit"),
)
_SWITCHES: Final = ("enabled", "unindexed_filtering_retrieve", "unindexed_filtering_update", "search_allow_exact")
_MINUTE_S: Final = 60.0


def parse_strict_mode(value: Any) -> dict[str, Any] | None:
    """Return the settings of a new collection's strict mode.

    Raises:
        RequestRefusedError: malformed, or a limit that is not supported.
    """
    if value is None:
        return None
    given = check_fields(value, (*_NUMBERS, *_SWITCHES), "strict mode")
    for name, set_to in given.items():
        if set_to is not None:
            check_type(set_to, int if name in _NUMBERS else bool, "usize" if name in _NUMBERS else "a boolean")
    return {name: set_to for name, set_to in given.items() if set_to is not None}


class StrictMode:
    """Checks requests to one collection. The caller holds the collection's lock."""

    def __init__(self, settings: Mapping[str, Any] | None) -> None:
        """Start with full buckets of tokens."""
        self._limits: Mapping[str, Any] = settings if settings and settings.get("enabled") else {}
        self._writes = _Bucket("Write", self._limits.get("write_rate_limit"))
        self._reads = _Bucket("Read", self._limits.get("read_rate_limit"))

    def check_timeout(self, query: Mapping[str, str]) -> None:
        """Check the time limit that a request names."""
        if "timeout" in query:
            self._check_limit("max_timeout", int(query["timeout"]), "timeout")

    def check_index(self, existing: Mapping[str, Any]) -> None:
        """Check the number of payload indexes before another one."""
        most = self._limits.get("max_payload_index_count")
        if most is not None and len(existing) >= most:
            raise _refused(
                f"Collection already has the maximum number of payload indices ({most})",
                "Please delete an existing index before creating a new one.",
            )

    def check_upsert(self, points: int) -> None:
        """Check the size of a write, and take its tokens."""
        self._check_limit("upsert_max_batchsize", points, "upsert limit")
        self._writes.take(points)

    def check_deletion(self, body: Mapping[str, Any], indexes: Mapping[str, Any], points: int) -> None:
        """Check the filter of a deletion of this many points, and take its tokens."""
        self._check_filter(body.get("filter"), indexes, "unindexed_filtering_update")
        self._writes.take(points)

    def check_retrieval(self, points: int) -> None:
        """Take the tokens of a read by ids."""
        self._reads.take(points)

    def check_read(self, body: Mapping[str, Any], indexes: Mapping[str, Any]) -> None:
        """Check page, filter and exactness of a scroll, a count or a search, and take its tokens."""
        if type(body.get("limit")) is int:
            self._check_limit("max_query_limit", body["limit"], "limit")
        self._check_filter(body.get("filter"), indexes, "unindexed_filtering_retrieve")
        if body.get("exact", False) is True and self._limits.get("search_allow_exact") is False:
            raise _refused("Exact search disabled!", "Set exact=false.")
        self._reads.take(1 + len(list(_conditions(body.get("filter")))))

    def _check_limit(self, setting: str, value: int, name: str) -> None:
        most = self._limits.get(setting)
        if most is not None and value > most:
            help_ = f'Reduce the "{name}" parameter to or below {most}.'
            raise _refused(f'Limit exceeded {value} > {most} for "{name}"', help_)

    def _check_filter(self, value: Any, indexes: Mapping[str, Any], switch: str) -> None:
        conditions = list(_conditions(value))
        if self._limits.get(switch) is False:
            for condition in conditions:
                if "key" in condition and condition["key"] not in indexes:
                    raise _refused(
                        f'Index required but not found for "{condition["key"]}" of one of the following types: []',
                        "Create an index for this key or use a different filter.",
                    )
        sizes = [len((condition.get("match") or {}).get("any") or ()) for condition in conditions]
        for setting, found, what, help_ in (
            ("filter_max_conditions", len(conditions), "Filter condition", "Reduce the amount of conditions of your"),
            ("condition_max_size", max(sizes, default=0), "Condition size", "Reduce the size of your"),
        ):
            most = self._limits.get(setting)
            if most is not None and found > most:
                noun = "filter" if setting == "filter_max_conditions" else "condition"
                raise _refused(f"{what} limit reached ({found} > {most})", f"{help_} {noun}.")


class _Bucket:
    """Tokens of one minute; a request that costs more than all of them is never allowed."""

    def __init__(self, kind: str, per_minute: int | None) -> None:
        self._kind = kind
        self._per_minute = per_minute
        self._tokens = float(per_minute or 0)
        self._at = time.monotonic()

    def take(self, cost: int) -> None:
        if self._per_minute is None:
            return
        cost = max(1, cost)
        if cost > self._per_minute:
            text = "request larger than rate limiter capacity, please try to split your request"
            raise RequestRefusedError(429, f"Rate limiting exceeded: {self._kind} rate limit exceeded, {text}")
        now = time.monotonic()
        self._tokens = min(self._per_minute, self._tokens + (now - self._at) * self._per_minute / _MINUTE_S)
        self._at = now
        if self._tokens < cost:
            wait_s = math.ceil((cost - self._tokens) * _MINUTE_S / self._per_minute)
            text = f"Operation requires {cost} tokens but only {self._tokens:.1f} were available. Retry after {wait_s}s"
            text = f"Rate limiting exceeded: {self._kind} rate limit exceeded: {text}"
            raise RequestRefusedError(429, text, retry_after_s=wait_s)
        self._tokens -= cost


def _refused(error: str, help_: str) -> RequestRefusedError:
    return RequestRefusedError(400, f"Bad request: {error}. Help: {help_}")


def _conditions(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the conditions of a filter, also of nested ones; what is malformed is refused by who reads it."""
    if type(value) is not dict:
        return
    for clause in ("must", "should", "must_not"):
        items = value.get(clause)
        for item in items if type(items) is list else [items]:
            if type(item) is not dict:
                continue
            if "key" in item or "has_id" in item:
                yield item
            else:
                yield from _conditions(item)
