"""Selection: the keys that a job works on, by prefix, include and exclude globs, and a list of keys. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator

from ingestion_engine.domain.spec import Source

MOST_PREFIXES = 100
"""Maximum prefixes listed one by one; each costs at least one request, so more become one common prefix (a guess)."""
KEY_BYTES = 1024
"""Longest key of S3 in bytes, and so the longest prefix that it accepts."""


class Selection:
    """The filter of one job over keys.

    Globs are matched against the key after the prefix, case-sensitively: ``*`` and ``?`` stay within one segment,
    ``**`` spans segments (``**/a.md`` also matches ``a.md``), ``[abc]`` and ``[!abc]`` are character classes.
    """

    def __init__(self, source: Source, only_keys: Collection[str] | None = None) -> None:
        self._prefix = source.prefix
        self._include = _compile(source.include)
        self._exclude = _compile(source.exclude)
        self._only = None if only_keys is None else frozenset(only_keys)
        self.prefixes = reduce_prefixes(source.prefix + literal_prefix(glob) for glob in source.include or ("",))
        """Prefixes to list, in byte order, none a prefix of another: every matching key is listed once."""

    def matches(self, key: str) -> bool:
        """True when the job works on this key."""
        return (self._only is None or key in self._only) and not self.leaves_out(key)

    def leaves_out(self, key: str) -> bool:
        """True when prefix or globs exclude this key, regardless of a list of keys."""
        if not key.startswith(self._prefix):
            return True
        rest = key[len(self._prefix) :]
        if self._include is not None and not self._include.fullmatch(rest):
            return True
        return self._exclude is not None and self._exclude.fullmatch(rest) is not None


def _compile(globs: Collection[str]) -> re.Pattern[str] | None:
    if not globs:
        return None
    return re.compile("|".join(f"(?:{translate_glob(glob)})" for glob in globs), re.DOTALL)


_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_NOTHING = "(?!)"


def translate_glob(glob: str) -> str:
    """Return the regular expression of a glob, for ``fullmatch``. Pure; every string is a valid glob."""
    return "".join(_WILDCARDS.get(piece) or _translate_class(piece) or re.escape(piece) for piece in _split(glob))


def literal_prefix(glob: str) -> str:
    """Return the common prefix of all keys that a glob matches: the text before its first wildcard or class. Pure."""
    literal = ""
    for piece in _split(glob):
        if piece in _WILDCARDS or _translate_class(piece) is not None:
            break
        literal += piece
    return literal


def _split(glob: str) -> Iterator[str]:
    return (match[0] for match in _TOKEN.finditer(glob))


def _translate_class(piece: str) -> str | None:
    """Return the expression of ``[abc]`` or ``[!abc]``; None for anything else, such as ``[`` and ``[!]``."""
    if len(piece) < 3 or piece == "[!]" or piece[0] != "[":
        return None
    negated = piece[1] == "!"
    body = piece[2 if negated else 1 : -1]
    for char in "\\^[&~|":
        body = body.replace(char, f"\\{char}")
    expression = f"(?!/)[{'^' if negated else ''}{body}]"
    try:
        re.compile(expression)
    except re.error:  # a reversed range such as [z-a]
        return _NOTHING
    return expression


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
