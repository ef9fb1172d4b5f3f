"""Refusals: the first of each kind is an entry at once, its repetitions within a minute are one more entry."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ingestion_engine.services.audit.entries import AuditEntry, new_entry_id

WINDOW_S: Final = 60.0
"""Time over which equal refusals are counted."""

SOURCES_MAX: Final = 100
"""Different refusals within a window that have entries of their own, of callers who are unknown and again of those who
are known; all others share one per status. So a flood from any number of addresses makes at most 200 entries a minute
and a few for the rest, and hides no refusal of somebody who is known, such as of a revoked key that is used."""

SHARED: Final = "*"
"""Who and where of the entry that stands for all others."""

_Key = tuple[object, ...]


@dataclass(slots=True)
class _Counted:
    first: AuditEntry
    last: AuditEntry
    number: int
    is_shared: bool


class Refusals:
    """Counts refusals. Memory: at most twice ``SOURCES_MAX`` entries and two per status and code. Not thread-safe.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counted: dict[_Key, _Counted] = {}
        self._sources = {True: 0, False: 0}
        """Number of entries of callers who are known, and of others."""
        self._since = clock()

    def take(self, entry: AuditEntry) -> bool:
        """Count a refusal; return whether it is the first of its kind in this window, and to be recorded itself."""
        network = _network(entry.address)
        key: _Key = (entry.who, entry.kind, entry.key_id, network, entry.operation, entry.status, entry.code)
        is_known = bool(entry.who)
        is_shared = key not in self._counted and self._sources[is_known] >= SOURCES_MAX
        if is_shared:
            key = (entry.status, entry.code, is_known)
            entry = replace(entry, who=SHARED, kind="unknown", key_id=None, address=None, operation=SHARED)
        found = self._counted.get(key)
        if found is None:
            self._sources[is_known] += 1
            self._counted[key] = _Counted(entry, entry, number=1 if is_shared else 0, is_shared=is_shared)
            return not is_shared
        if not found.number:
            found.first = entry
        found.number += 1
        found.last = entry
        return False

    def collect(self, *, whole: bool = False) -> list[AuditEntry]:
        """Return the entries of the repetitions when the window has ended, or in any case with ``whole``."""
        if not whole and self._clock() - self._since < WINDOW_S:
            return []
        counted, self._counted = self._counted, {}
        self._sources = {True: 0, False: 0}
        self._since = self._clock()
        return [
            replace(one.first, id=new_entry_id(), number=one.number, until=one.last.at, request_id=None, details={})
            for one in counted.values()
            if one.number
        ]


def _network(address: str | None) -> str | None:
    """Return the address, of IPv6 its network of 64 bits: a client can choose the rest. Pure."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
