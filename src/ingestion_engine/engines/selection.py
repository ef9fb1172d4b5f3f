"""Selection: which keys a job is about: prefix, include and exclude globs, an explicit list of keys. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from ingestion_engine.domain.spec import Source


class Selection:
    """The filter of one job over keys.

    Globs are matched against the key after the prefix, case-sensitively: ``*`` and ``?`` stay within one segment,
    ``**`` spans
    segments (``**/a.md`` also matches ``a.md``), ``[abc]`` and ``[!abc]`` are character classes.
    """

    def __init__(self, source: Source, only_keys: Collection[str] | None = None) -> None:
        self._prefix = source.prefix
        self._include = _compile(source.include)
        self._exclude = _compile(source.exclude)
        self._only = None if only_keys is None else frozenset(only_keys)

    def matches(self, key: str) -> bool:
        """True when the job is about this key."""
        if not key.startswith(self._prefix) or (self._only is not None and key not in self._only):
            return False
        rest = key[len(self._prefix) :]
        if self._include is not None and not self._include.fullmatch(rest):
            return False
        return self._exclude is None or not self._exclude.fullmatch(rest)


def _compile(globs: Collection[str]) -> re.Pattern[str] | None:
    if not globs:
        return None
    return re.compile("|".join(f"(?:{translate_glob(glob)})" for glob in globs), re.DOTALL)


_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


def translate_glob(glob: str) -> str:
    """Return the regular expression of a glob, to be used with ``fullmatch``."""
    parts: list[str] = []
    for piece in _TOKEN.findall(glob):
        if piece == "**/":
            parts.append("(?:.*/)?")
        elif piece == "**":
            parts.append(".*")
        elif piece == "*":
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif len(piece) > 2 and piece[0] == "[" and piece[-1] == "]":
            negated = piece[1] == "!"
            body = piece[2 if negated else 1 : -1].replace("\\", "\\\\").replace("^", "\\^").replace("[", "\\[")
            parts.append(f"(?!/)[{'^' if negated else ''}{body}]")
        else:
            parts.append(re.escape(piece))
    return "".join(parts)
