"""Texts about objects that every log, file and database takes: names inside of files are arbitrary."""

from __future__ import annotations


def make_legible(text: str, most_chars: int) -> str:
    """Return a text on one line, without control characters and lone surrogates, of at most ``most_chars``. Pure.

    JSON, Arrow and UTF-8 refuse lone surrogates, which names of members and attachments can contain.
    """
    cut = text if len(text) <= most_chars else text[: most_chars - 1] + "…"
    if cut.isprintable():
        return cut
    whole = cut.encode("utf-8", "replace").decode()
    return "".join(char if char.isprintable() else " " for char in whole).strip()
