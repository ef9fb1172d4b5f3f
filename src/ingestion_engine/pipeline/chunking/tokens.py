"""Estimate the number of tokens of a text without the model's tokenizer, which Ollama does not provide."""

from __future__ import annotations

import math
import re

_SPECIAL_TOKENS = 2
"""Tokens around every input: ``[CLS]`` and ``[SEP]``, or begin and end of sequence."""

_PIECE = re.compile(
    r"(?P<plain>[A-Za-z]+(?![0-9A-Za-z\u00aa-\u024f]))"
    r"|(?P<digits>[0-9]+(?![0-9A-Za-z]))"
    r"|(?P<mixed>[0-9A-Za-z]*[0-9][0-9A-Za-z]*)"
    r"|(?P<latin>[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]+)"
    r"|(?P<hangul>[\uac00-\ud7a3])"
    r"|(?P<other>\S)"
)

_ASCII_PIECE = re.compile(r"[0-9A-Za-z]+|[^\s0-9A-Za-z]")
"""The same pieces of a text that is all ASCII, where their kinds can be distinguished without groups."""

MOST_TOKENS_PER_CHAR = 2
"""Maximum of ``estimate_tokens`` per character (1 for ASCII), besides ``_SPECIAL_TOKENS``."""


def probably_fits(text: str, context_length: int) -> bool:
    """Return whether ``estimate_tokens`` of a text is within a model's context length. Pure.

    Cost: none for texts much shorter than the context length, else as ``estimate_tokens``.
    """
    most = (1 if text.isascii() else MOST_TOKENS_PER_CHAR) * len(text) + _SPECIAL_TOKENS
    return most <= context_length or estimate_tokens(text) <= context_length


def estimate_tokens(text: str) -> int:
    """Return the probable number of tokens for a WordPiece model with an English vocabulary. Pure.

    Tokens per word: English letters one per 5.5, at least one; words with accents one per 2.4; digits one per 2;
    digits and letters mixed one per 1.3. One per character of other alphabets, Han, kana and punctuation; two per
    Hangul syllable (which is split into letters). Compared with all-MiniLM-L6-v2's tokenizer this is 0.75 to 1.2 times
    the true count for English, German, French, Polish, Russian, Greek, Japanese, Chinese, Korean, source code and
    hexadecimal text, and more for alphabets unknown to the model. Tokenizers with larger vocabularies need fewer.

    Cost: about 1 s per 20 MB of ASCII, 5 MB of anything else.
    """
    count = 0.0
    for part in (text,) if text.isascii() else text.split():  # no piece contains white space
        count = _add_ascii(count, part) if part.isascii() else _add_any(count, part)
    return math.ceil(count) + _SPECIAL_TOKENS


def _add_ascii(count: float, text: str) -> float:
    """Return the count plus that of an ASCII text; added piece by piece, so that every path rounds the sum alike."""
    for piece in _ASCII_PIECE.findall(text):
        length = len(piece)
        if piece.isalpha():
            count += length / 5.5 if length > 5.5 else 1.0
        elif not piece.isalnum():
            count += 1
        elif piece.isdigit():
            count += math.ceil(length / 2)
        else:
            count += length / 1.3
    return count


def _add_any(count: float, text: str) -> float:
    """Return the count plus that of any text."""
    for found in _PIECE.finditer(text):
        kind = found.lastgroup
        length = found.end() - found.start()
        if kind == "plain":
            count += max(1.0, length / 5.5)
        elif kind == "other":
            count += 1
        elif kind == "digits":
            count += math.ceil(length / 2)
        elif kind == "mixed":
            count += length / 1.3
        elif kind == "latin":
            count += max(1.0, length / 2.4)
        else:
            count += 2
    return count
