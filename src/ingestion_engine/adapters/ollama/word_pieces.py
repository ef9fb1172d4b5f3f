"""WordPiece as Ollama's runner applies it: greedy pieces of words of any length, over one base letter per character.

Follows llama.cpp, `llm_tokenizer_wpm_session` of src/llama-vocab.cpp, with a model that lower-cases and strips accents
(the default). It differs from the reference implementation, with which the models were trained: a word over 100
characters is split into pieces instead of being unknown, and each character is replaced by the first one of its
canonical decomposition: letters lose their accents, and a Hangul syllable becomes its first consonant.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

UNKNOWN = "[UNK]"
WORD_START = "\u2581"
"""First character of the pieces that begin a word, in the vocabulary of a GGUF file; the others have none."""
SPECIAL_TOKENS = 2
"""Tokens around every text: ``[CLS]`` and ``[SEP]``."""
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
_HEAD = 3
"""Characters that tell how long a piece can be: random text is split twice as fast as by trying every length."""
_CACHED_WORDS = 50_000
"""Words whose numbers of pieces a process keeps: about 5 MB, nearly all words of a language."""
_LONGEST_CACHED = 40
"""A word is cached up to this length: longer ones hardly occur twice."""

_ASCII = {
    **{code: None for code in (*range(0x20), 0x7F) if chr(code) not in "\t\n\v\f\r"},
    **{ord(upper): upper.lower() for upper in string.ascii_uppercase},
}
"""What becomes of ASCII characters, other than themselves."""
_ASCII_WORD = re.compile(r"[0-9a-z]+|[^\s0-9a-z]")


class WordPieces:
    """Splits texts into word pieces, or counts them. Safe to call from several threads."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """Use a vocabulary in the form of a GGUF file: ``tokenizer.ggml.tokens``.

        Cost: 10 ms and about 4 MB for 30,000 pieces.
        """
        self._ids = {piece: number for number, piece in enumerate(vocabulary)}
        self._reach: dict[str, int] = {}
        """Length of the longest piece by its first characters."""
        for piece in vocabulary:
            if len(piece) > self._reach.get(head := piece[:_HEAD], _HEAD):
                self._reach[head] = len(piece)
        self._unknown = self._ids.get(UNKNOWN, 0)
        self._counts = _Counts(self._count_word)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens, as a runner of after June 2026 does: without marks.

        Cost: a few look-ups per character.
        """
        return [number for word in _strip_marks(text.translate(_BASES)).split() for number in self._split(word)]

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, special tokens included.

        A runner may count lower where a text has combining marks, which it keeps or leaves out (llama.cpp before and
        after June 2026), or names of special tokens such as ``[SEP]``. Otherwise the count is exact, but for characters
        that are newer than the Unicode of this Python.

        Cost: about 1 s per 15 MB of ASCII, 8 MB of anything else; words that are seen for the first time 1 µs per
        character.
        """
        if text.isascii():
            return sum(map(self._counts.__getitem__, _ASCII_WORD.findall(text.translate(_ASCII)))) + SPECIAL_TOKENS
        return sum(map(self._counts.__getitem__, text.translate(_BASES).split())) + SPECIAL_TOKENS

    def _count_word(self, word: str) -> int:
        count = len(self._split(word))
        if word.isascii():
            return count
        bare = _strip_marks(word)
        return count if bare == word else max(count, len(self._split(bare)))

    def _split(self, word: str) -> list[int]:
        """Return the longest pieces from the left; a word that has none somewhere is unknown as a whole."""
        if not word:
            return []
        ids: list[int] = []
        word = WORD_START + word
        at = 0
        while at < len(word):
            longest = self._reach.get(word[at : at + _HEAD], _HEAD)
            for end in range(min(len(word), at + longest), at, -1):
                if (found := self._ids.get(word[at:end])) is not None:
                    ids.append(found)
                    at = end
                    break
            else:
                return [self._unknown]
        return ids


def from_tokenizer_json(piece: str) -> str:
    """Return a piece of tokenizer.json in the form of a GGUF file; special tokens have the same form there. Pure."""
    if piece.startswith("[") and piece.endswith("]"):
        return piece
    return piece.removeprefix("##") if piece.startswith("##") else WORD_START + piece


def _strip_marks(text: str) -> str:
    return "".join(char for char in text if not unicodedata.category(char).startswith("M"))


class _Counts(dict[str, int]):
    """Numbers of pieces by word, counted when first asked for; emptied when it is full."""

    def __init__(self, count: Callable[[str], int]) -> None:
        super().__init__()
        self._count = count

    def __missing__(self, word: str) -> int:
        count = self._count(word)
        if len(word) <= _LONGEST_CACHED:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = count
        return count


class _Bases(dict[int, str]):
    """What becomes of a character, by its code: its lower-case base, a space for white space, nothing if left out.

    Spaces surround a character that is a word of its own: a punctuation mark or a Han character.
    """

    def __missing__(self, code: int) -> str:
        base = unicodedata.normalize("NFD", chr(code))[0]
        kind = unicodedata.category(base)
        if base.isspace() and base not in _NO_SPACES:
            read = " "
        elif kind in _SKIPPED or base == _REPLACEMENT:
            read = ""
        else:
            read = base.lower()[:1]
            is_mark = kind.startswith("P") or (base < "\x7f" and kind.startswith("S"))
            if is_mark or any(first <= ord(base) <= last for first, last in _HAN):
                read = f" {read} "
        self[code] = read
        return read


_BASES = _Bases()
