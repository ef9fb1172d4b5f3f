"""Texts in pieces: what readers of several formats need to take a text as it comes and to give one as they go."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from typing import AnyStr

from ingestion_engine.domain.errors import ObjectError
from ingestion_engine.domain.records import ReadWarning

MOST_GROWTH = 64
"""Most characters of text for a character of the object. Column names and paths of keys, which a reader repeats in
every line, make the text of real tables and exports up to twenty times as long (a guess)."""

_FREE_CHARS = 16 * 1024 * 1024
"""Characters of text that any object may have."""

_BATCH_CHARS = 64 * 1024
"""Characters of lines that are joined to one piece; more is not faster."""


class TextInPieces:
    """A text in pieces; iterate once. What else is known of it is known after the iteration."""

    title: str | None = None
    warnings: tuple[ReadWarning, ...] = ()
    """What was left out; several may have the same code."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)


class OtherFormatError(Exception):
    """The text is not what its name or its beginning promise; it is read in another way."""


class NeedsWholeTextError(Exception):
    """The text cannot be read in pieces; it may be readable whole."""


def take_head(pieces: Iterable[str], length: int) -> tuple[str, Iterator[str]]:
    """Return the first ``length`` characters of a text, and an iterator over all its pieces."""
    source = iter(pieces)
    taken: list[str] = []
    known = 0
    while known < length and (piece := next(source, None)) is not None:
        taken.append(piece)
        known += len(piece)
    return "".join(taken)[:length], itertools.chain(taken, source)


def drop_first_blanks(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text in pieces without the white space at its beginning."""
    source = iter(pieces)
    for piece in source:
        if first := piece.lstrip():
            yield first
            break
    yield from source


def split_lines(pieces: Iterable[str]) -> Iterator[str]:
    r"""Yield the lines of a text, each with its ``\n``.

    ``str.splitlines`` also splits at characters that cells and strings may contain.

    Cost: memory of one piece and one line.
    """
    begun: list[str] = []
    for piece in pieces:
        for line in io.StringIO(piece, newline="\n"):
            begun.append(line)
            if line.endswith("\n"):
                yield "".join(begun)
                begun.clear()
    if begun:
        yield "".join(begun)


def join_lines(lines: Iterable[str]) -> Iterator[str]:
    r"""Yield the lines joined by ``\n``, in pieces of some length."""
    held: list[str] = []
    chars = 0
    gap = ""
    for line in lines:
        held.append(line)
        chars += len(line)
        if chars >= _BATCH_CHARS:
            yield gap + "\n".join(held)
            held.clear()
            chars, gap = 0, "\n"
    if held:
        yield gap + "\n".join(held)


class Growth:
    """Stops a reader whose text is out of proportion to the object: it would fill any memory and any disk."""

    def __init__(self) -> None:
        self._read = self._written = 0

    def count(self, pieces: Iterable[AnyStr]) -> Iterator[AnyStr]:
        """Yield the pieces of the object."""
        for piece in pieces:
            self._read += len(piece)
            yield piece

    def limit(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the pieces of the text. Raises ObjectError ("decompressed_too_large")."""
        for piece in pieces:
            self._written += len(piece)
            if self._written > MOST_GROWTH * self._read + _FREE_CHARS:
                raise ObjectError(
                    "decompressed_too_large",
                    f"The text of the object is more than {MOST_GROWTH} times as long as the object: every line repeats"
                    " very long column names or keys.",
                    hint="Shorten the names, or exclude the object.",
                )
            yield piece
