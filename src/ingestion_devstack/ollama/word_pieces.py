"""WordPiece as Ollama's runner applies it: greedy pieces of words of any length, over one base letter per character.

Imitates llama.cpp, `llm_tokenizer_wpm_session` of src/llama-vocab.cpp. It differs from the reference implementation,
with which the model was trained: a word over 100 characters is split into pieces instead of being unknown, and each
character is replaced by the first one of its canonical decomposition: letters lose their accents, and a Hangul syllable
becomes its first consonant.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

UNKNOWN = "[UNK]"
_CONTINUED = "##"
_SPACE = "\u2581"
"""Prefix in GGUF of a piece that begins a word."""
_SKIPPED = ("Cc", "Cf", "Co", "Cs")
"""Categories of characters that are left out."""
_REPLACEMENT = "\ufffd"
_NO_SPACES = "\x1c\x1d\x1e\x1f"
"""Separators that Python counts as white space and the runner as control characters."""
_HAN = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
"""Characters that are words of their own; the gap before U+2B920 is the runner's."""
_CACHED_WORDS = 50_000
_LONGEST_CACHED = 40
"""A word is cached up to this length: longer ones hardly occur twice."""


def describe_vocabulary(vocabulary: Mapping[str, int], *, verbose: bool) -> dict[str, Any]:
    """Return the keys that `/api/show` has for a vocabulary, in the form of GGUF as Ollama writes it.

    A piece that begins a word has U+2581 in front, one inside a word has no prefix. Without `verbose` an array is null.

    Imitates Ollama, convert/convert_bert.go and fs/ggml/gguf.go.
    """
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": [_name_in_gguf(piece) for piece in pieces] if verbose else None,
    }


def _name_in_gguf(piece: str) -> str:
    if piece.startswith("[") and piece.endswith("]"):
        return piece
    return piece.removeprefix(_CONTINUED) if piece.startswith(_CONTINUED) else _SPACE + piece


class WordPieces:
    """Splits texts into the ids of word pieces. Safe to call from several threads."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        """Use a vocabulary in the form of tokenizer.json: a piece inside a word begins with `##`."""
        self._first = {piece: number for piece, number in vocabulary.items() if not piece.startswith(_CONTINUED)}
        self._next = {piece[2:]: number for piece, number in vocabulary.items() if piece.startswith(_CONTINUED)}
        self._longest = max(map(len, (*self._first, *self._next)))
        self._unknown = vocabulary[UNKNOWN]
        self._cached = functools.lru_cache(_CACHED_WORDS)(self._split)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens. Cost: at most 18 look-ups per character."""
        ids: list[int] = []
        for word in _words(text):
            ids += self._cached(word) if len(word) <= _LONGEST_CACHED else self._split(word)
        return ids

    def _split(self, word: str) -> tuple[int, ...]:
        """Return the longest pieces from the left; a word that has none somewhere is unknown as a whole."""
        ids: list[int] = []
        at = 0
        while at < len(word):
            pieces = self._next if at else self._first
            for end in range(min(len(word), at + self._longest), at, -1):
                if (found := pieces.get(word[at:end])) is not None:
                    ids.append(found)
                    at = end
                    break
            else:
                return (self._unknown,)
        return tuple(ids)


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text: cut at white space, each punctuation mark and Han character by itself."""
    word: list[str] = []
    for char in text:
        base, is_space, is_skipped, stands_alone = _read(char)
        if is_skipped and not is_space:
            continue
        if (is_space or stands_alone) and word:
            yield "".join(word)
            word.clear()
        if stands_alone:
            yield base
        elif not is_space:
            word.append(base)
    if word:
        yield "".join(word)


@functools.lru_cache(None)
def _read(char: str) -> tuple[str, bool, bool, bool]:
    """Return a character's lower-case base, whether it is white space, whether it is left out, and stands alone."""
    base = unicodedata.normalize("NFD", char)[0]
    kind = unicodedata.category(base)
    is_skipped = kind in _SKIPPED or base == _REPLACEMENT
    is_mark = kind.startswith("P") or (base < "\x7f" and kind.startswith("S"))
    is_han = any(first <= ord(base) <= last for first, last in _HAN)
    is_space = base.isspace() and base not in _NO_SPACES
    return base.lower()[:1], is_space, is_skipped, is_mark or is_han
