"""Readings of a document are compared by their words, in linear time."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from reading.compare import WordDiff, compare_words, split_words


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("one two three", "one two three", WordDiff(words=3)),
        ("One,  two\nthree.", "one two three", WordDiff(words=3)),
        ("one three", "one two three", WordDiff(words=3, lost=1)),
        ("one one two", "one two", WordDiff(words=2, doubled=1)),
        ("one two four", "one two", WordDiff(words=2, added=1)),
        ("three two one", "one two three", WordDiff(words=3, reordered=2)),
        ("日語本", "日本語", WordDiff(words=3, reordered=2)),
        ("o\u00adne \ufb01ne", "one fine", WordDiff(words=2)),
        ("", "", WordDiff()),
        ("", "one two", WordDiff(words=2, lost=2)),
    ],
)
def test_words_lost_doubled_added_and_moved_are_counted(ours: str, theirs: str, expected: WordDiff) -> None:
    """Case, punctuation, white space, ligatures and soft hyphens make no difference."""
    assert compare_words(ours, theirs) == expected


def test_a_moved_paragraph_costs_its_borders_only() -> None:
    """Order is a matter of neighbours, so that one shift does not count for every word behind it."""
    first, second = [" ".join(f"{name}{at}" for at in range(100)) for name in "ab"]
    assert compare_words(f"{second}\n{first}", f"{first}\n{second}").reordered == 1


def test_sums_and_shares() -> None:
    total = WordDiff(words=10, lost=1) + WordDiff(words=30, lost=1, doubled=4, added=2, reordered=3)
    assert total == WordDiff(words=40, lost=2, doubled=4, added=2, reordered=3)
    assert total.share(total.lost) == 0.05
    assert WordDiff().share(0) == 0.0
    assert "5.000%" in total.row()


def test_time_is_linear() -> None:
    """400,000 equal words take seconds, not hours, in every direction."""
    text = "same " * 400_000
    began = time.process_time()
    assert compare_words(text, text[: len(text) // 2]).doubled == 200_000
    assert time.process_time() - began < 30
    assert split_words("a b") == ["a", "b"]
