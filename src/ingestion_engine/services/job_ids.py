"""New job ids: sorted by time; valid as DNS labels, Kubernetes names and Ray submission ids."""

from __future__ import annotations

import datetime as dt
import secrets
import threading
import time
from typing import Final

from ingestion_engine.domain.spec import COLLECTION_MAX
from ingestion_engine.runtime.timestamps import Moment

PREFIX: Final = "job-"

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case."""

_RANDOM_BITS: Final = 80
_DIGITS: Final = 26
"""Characters of a ULID."""


class JobIds:
    """Creates ids that sort in the order of creation, also within one millisecond. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def make(self) -> str:
        """Return ``job-`` and the 26 characters of a ULID: 48 bits of Unix milliseconds, 80 random bits."""
        with self._lock:
            fresh = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
            if fresh >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
                fresh = self._last + 1
            self._last = fresh
        return PREFIX + "".join(_ALPHABET[fresh >> shift & 31] for shift in range(125, -1, -5))


def read_creation(job_id: str) -> Moment | None:
    """Return when an id was made; None when ``JobIds`` has not made it. Pure."""
    digits = job_id.removeprefix(PREFIX)
    if digits == job_id or len(digits) != _DIGITS or not set(digits) <= set(_ALPHABET):
        return None
    number = 0
    for digit in digits:
        number = number << 5 | _ALPHABET.index(digit)
    try:
        return dt.datetime.fromtimestamp((number >> _RANDOM_BITS) / 1000, dt.UTC)
    except (OverflowError, ValueError):
        return None


def name_version(alias: str, job_id: str) -> str:
    """Return the name of the collection that a job creates for an alias: unique and sorted by time. Pure.

    The job's id without its prefix is lower case and never used twice, so no other name is equal when case is ignored.
    An alias that is too long to be prepended is cut.
    """
    suffix = "_" + job_id.removeprefix(PREFIX)
    return alias[: COLLECTION_MAX - len(suffix)] + suffix


def alias_of_version(collection: str) -> str | None:
    """Return the alias that ``name_version`` made a name for, which may be cut; None for other names. Pure."""
    base, separator, digits = collection.rpartition("_")
    is_made = bool(base and separator) and len(digits) == _DIGITS and set(digits) <= set(_ALPHABET)
    return base if is_made else None


def is_version_of(alias: str, collection: str) -> bool:
    """Return whether ``name_version`` made a name for an alias. Pure."""
    base = alias_of_version(collection)
    return base is not None and base == alias[: COLLECTION_MAX - _DIGITS - 1]
