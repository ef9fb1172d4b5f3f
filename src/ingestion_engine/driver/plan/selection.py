"""Selection: the keys that a job works on, by prefix, include and exclude globs, and a list of keys. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

from ingestion_engine.domain.spec import Source
from ingestion_engine.driver.plan.globs import Glob

MOST_PREFIXES = 100
"""Maximum prefixes listed one by one; each costs at least one request, so more become one common prefix (a guess)."""
KEY_BYTES = 1024
"""Longest key of S3 in bytes, and so the longest prefix that it accepts."""


class Selection:
    """The filter of one job over keys.

    Globs are matched against the key after the prefix.
    """

    def __init__(self, source: Source, only_keys: Collection[str] | None = None) -> None:
        self._prefix = source.prefix
        self._include = [Glob(glob) for glob in source.include]
        self._exclude = [Glob(glob) for glob in source.exclude]
        self._only = None if only_keys is None else frozenset(only_keys)
        self.prefixes = reduce_prefixes(source.prefix + glob.prefix for glob in self._include or (Glob(""),))
        """Prefixes to list, in byte order, none a prefix of another: every matching key is listed once."""

    def matches(self, key: str) -> bool:
        """True when the job works on this key."""
        return (self._only is None or key in self._only) and not self.leaves_out(key)

    def leaves_out(self, key: str) -> bool:
        """True when prefix or globs exclude this key, regardless of a list of keys."""
        if not key.startswith(self._prefix):
            return True
        rest = key[len(self._prefix) :]
        if self._include and not any(glob.matches(rest) for glob in self._include):
            return True
        return any(glob.matches(rest) for glob in self._exclude)


def reduce_prefixes(prefixes: Iterable[str]) -> list[str]:
    """Return prefixes in byte order without those that others cover. Pure.

    Listed one after another, they give each key once and in order. More than ``MOST_PREFIXES`` become one, which is
    their common prefix.
    """
    kept: list[str] = []
    for prefix in sorted({_shorten(prefix) for prefix in prefixes}, key=str.encode):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    if len(kept) <= MOST_PREFIXES:
        return kept
    # The common prefix of the first and the last of a sorted list is common to all.
    pairs = zip(kept[0], kept[-1], strict=False)
    return ["".join(left for left, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))]


def _shorten(prefix: str) -> str:
    return prefix.encode()[:KEY_BYTES].decode(errors="ignore")
