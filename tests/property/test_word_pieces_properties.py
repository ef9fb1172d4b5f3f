"""Counting the tokens of a text is encoding it, for any text."""

from __future__ import annotations

import functools
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_devstack.ollama.minilm import MiniLm
from ingestion_engine.adapters.ollama.word_pieces import SPECIAL_TOKENS, WORD_START, WordPieces

_SCRAPS = st.sampled_from((
    " ", "\n", "\t", "\x00", "\x1c", "\x7f", "\u00a0", "\u200b", "\ufffd", "the", "Embedding", "größer", "e\u0301",
    "\uff21",
    "안녕하세요", "हिन्दी की", "สวัสดี", "東京は", "[SEP]", "##ing", WORD_START, "a" * 130, "QUJDRA==", "İ", "ß", "Ǆ",
))  # fmt: skip
TEXTS = st.lists(_SCRAPS | st.text(max_size=20), max_size=12).map("".join)
ASCII = st.text(st.characters(max_codepoint=127), max_size=80)


@functools.cache
def pieces() -> WordPieces:
    return WordPieces(MiniLm().read_vocabulary())


def has_marks(text: str) -> bool:
    return any(unicodedata.category(char).startswith("M") for char in unicodedata.normalize("NFD", text))


@settings(max_examples=500, deadline=None)
@given(TEXTS | ASCII)
def test_a_count_is_the_number_of_ids(text: str) -> None:
    """Also with its short cut for ASCII and from its cache; only marks, on which runners differ, may count more."""
    count = len(pieces().encode(text)) + SPECIAL_TOKENS
    for _ in range(2):
        counted = pieces().count_tokens(text)
        assert counted >= count
        assert counted == count or has_marks(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_words_count_by_themselves(left: str, right: str) -> None:
    """A text has the tokens of its parts, where they are parted by white space; and at most one per character."""
    together = pieces().count_tokens(f"{left} {right}")
    assert together == pieces().count_tokens(left) + pieces().count_tokens(right) - SPECIAL_TOKENS
    assert together <= len(left) + 1 + len(right) + SPECIAL_TOKENS
