"""How the text of each kind of plain text is made from the file's, in pieces or whole: one table for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from ingestion_engine.pipeline.parsing.kinds import Kind
from ingestion_engine.pipeline.parsing.parsed_text import ParsedText
from ingestion_engine.pipeline.parsing.pieces import OtherFormatError, TextInPieces

Reading = tuple[Kind, Callable[[Iterable[str]], TextInPieces]]

_PLAIN: Reading = (Kind.TEXT, TextInPieces)


def readings(kind: Kind, *, held_chars: int | None = None) -> tuple[Reading, ...]:
    """Return the ways to read a kind of text, in the order in which they are tried.

    The next one is tried when a text raises OtherFormatError, which the last one never does. Empty for kinds that are
    not read in pieces.

    Args:
        kind: Kind of the text.
        held_chars: Characters of lines that a reader holds back (``XmlText``); None for a text in one piece.
    """
    if kind in (Kind.TEXT, Kind.MARKDOWN):
        return ((kind, TextInPieces),)
    if kind is Kind.CSV:
        from ingestion_engine.pipeline.parsing.formats.tables import render_csv

        return ((kind, lambda pieces: TextInPieces(render_csv(pieces))),)
    if kind in (Kind.JSON, Kind.JSONL):
        from ingestion_engine.pipeline.parsing.formats.json import JsonLinesText, JsonText, RelaxedJsonText

        return (
            ((kind, JsonLinesText), _PLAIN)
            if kind is Kind.JSONL
            else ((kind, JsonText), (kind, RelaxedJsonText), _PLAIN)
        )
    if kind is Kind.XML:
        from ingestion_engine.pipeline.parsing.formats.xml import XmlText

        return ((kind, partial(XmlText, held_chars=held_chars)), _PLAIN)
    return ()


def read_whole(kind: Kind, text: str) -> tuple[Kind, ParsedText]:
    """Return the text of a file of a kind, and the kind that it was read as: plain text if it is not what it seems.

    Raises ObjectError as the kind's reader.
    """
    for read_as, render in readings(kind):
        parsed = render([text])
        with suppress(OtherFormatError):
            return read_as, ParsedText("".join(parsed), title=parsed.title, warnings=parsed.warnings)
    return Kind.TEXT, ParsedText(text)
