"""A text that is read in the pieces that a test makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ingestion_engine.domain.records import ReadWarning
from ingestion_engine.pipeline.parsing.kinds import Kind
from ingestion_engine.pipeline.parsing.pieces import OtherFormatError
from ingestion_engine.pipeline.parsing.readings import readings

Read = tuple[Kind, str, str | None, tuple[ReadWarning, ...]]


def read_pieces(kind: Kind, make_pieces: Callable[[], Iterable[str]], *, held_chars: int | None = None) -> Read:
    """Return kind, text, title and warnings of a text in pieces, which are made anew for every attempt."""
    for read_as, render in readings(kind, held_chars=held_chars):
        parsed = render(make_pieces())
        try:
            text = "".join(parsed)
        except OtherFormatError:
            continue
        return read_as, text, parsed.title, parsed.warnings
    raise AssertionError(f"{kind} is not read in pieces")
