"""Globs: matches keys in bounded time, whatever the glob and the key.

A glob as a regular expression takes exponential time on some keys. Here, the positions in the key that the glob's
beginning may reach are the bits of one integer, and every token of the glob moves all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_FOLDERS, _DEEP, _STAR, _ANY = "**/", "**", "*", "?"
_WILDCARDS = frozenset({_FOLDERS, _DEEP, _STAR, _ANY})


@dataclass(frozen=True, slots=True)
class _Class:
    """A character class; ranges are inclusive. It never matches a slash."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]

    def contains(self, char: str) -> bool:
        return char != "/" and any(low <= char <= high for low, high in self.ranges) != self.negated


_NOTHING = _Class(negated=False, ranges=())
"""The class that matches no character."""


class Glob:
    """A glob over whole keys, case-sensitive.

    ``*`` and ``?`` stay within one segment, ``**`` spans segments (``**/a.md`` also matches ``a.md``), ``[abc]`` and
    ``[!abc]`` are character classes. Every string is a valid glob.
    """

    def __init__(self, glob: str) -> None:
        tokens = list(_split(glob))
        end = len(tokens)
        while end and isinstance(tokens[end - 1], str) and tokens[end - 1] not in _WILDCARDS:
            end -= 1
        start = 0
        while start < end and isinstance(tokens[start], str) and tokens[start] not in _WILDCARDS:
            start += 1
        self.prefix = "".join(map(str, tokens[:start] if start < end else tokens))
        """The beginning of all keys that it matches: the text before its first wildcard or class."""
        self._suffix = "".join(map(str, tokens[end:])) if start < end else ""
        self._tokens = tokens[start:end]

    def matches(self, key: str) -> bool:
        """Return whether the whole key matches. Pure.

        Cost: one step per token, each of a few operations on integers with as many bits as the key has characters; one
        step per character of the key for each different character and class of the glob.
        """
        if not self._tokens:
            return key == self.prefix
        rest = len(key) - len(self.prefix) - len(self._suffix)
        if rest < 0 or not key.startswith(self.prefix) or not key.endswith(self._suffix):
            return False
        return _reaches_end(self._tokens, key[len(self.prefix) : len(self.prefix) + rest])


def _reaches_end(tokens: list[str | _Class], text: str) -> bool:
    """Return whether the tokens match the whole text."""
    slashes = _places(text, "/")
    others = (1 << len(text)) - 1 & ~slashes
    known: dict[str | _Class, int] = {"/": slashes, _ANY: others}
    reached = 1  # bit n: the tokens so far match the first n characters
    for token in tokens:
        if token == _STAR:
            # Adding carries every bit through the characters behind it up to the next slash.
            reached |= ((reached & others) + others) ^ others
        elif token == _DEEP:
            reached = (2 << len(text)) - (reached & -reached)
        elif token == _FOLDERS:
            reached |= (slashes & -(reached & -reached)) << 1
        else:
            if token not in known:
                known[token] = _places(text, token)
            reached = (reached & known[token]) << 1
        if not reached:
            return False
    return bool(reached >> len(text))


def _places(text: str, token: str | _Class) -> int:
    """Return an integer with a bit for every position of a character or class."""
    places = 0
    if isinstance(token, _Class):
        for at, char in enumerate(text):
            places |= token.contains(char) << at
        return places
    at = text.find(token)
    while at >= 0:
        places |= 1 << at
        at = text.find(token, at + 1)
    return places


def _split(glob: str) -> Iterator[str | _Class]:
    """Yield the tokens of a glob: wildcards, classes and single characters."""
    at = 0
    last = glob.rfind("]")
    while at < len(glob):
        first = at + 1 + glob.startswith("!", at + 1)
        if glob[at] == "[" and first < last:
            end = glob.find("]", first + 1)  # a bracket directly behind the opening belongs to the class
            yield _parse_class(glob[first:end], negated=first == at + 2)
            at = end + 1
            continue
        token = next((mark for mark in (_FOLDERS, _DEEP) if glob.startswith(mark, at)), glob[at])
        yield token
        at += len(token)


def _parse_class(chars: str, *, negated: bool) -> _Class:
    ranges = []
    at = 0
    while at < len(chars):
        is_range = chars[at + 1 : at + 2] == "-" and at + 2 < len(chars)
        low, high = chars[at], chars[at + 2 if is_range else at]
        if low > high:
            return _NOTHING
        ranges.append((low, high))
        at += 3 if is_range else 1
    return _Class(negated, tuple(ranges))
