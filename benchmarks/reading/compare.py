"""Two readings of one document compared by their words: which are lost, doubled or in another order."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

_WORD = re.compile(
    r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"  # written without spaces: every character counts
    r"|[^\W\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_INVISIBLE = dict.fromkeys((0x00AD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF))
"""Soft hyphens, joiners and marks of direction: readers keep or drop them, and no reader of a page sees them."""


@dataclass(frozen=True, slots=True)
class WordDiff:
    """What one text lacks or has twice, compared with another one. Counts of words; additive over files."""

    words: int = 0
    """Words in the other text ("theirs")."""
    lost: int = 0
    """Words of theirs that ours lacks, counted as often as they are missing."""
    doubled: int = 0
    """Words that ours has more often than theirs, although theirs has them."""
    added: int = 0
    """Words that only ours has."""
    reordered: int = 0
    """Adjacent pairs of theirs that ours lacks, although it has both words."""

    def __add__(self, other: WordDiff) -> WordDiff:
        return WordDiff(
            words=self.words + other.words,
            lost=self.lost + other.lost,
            doubled=self.doubled + other.doubled,
            added=self.added + other.added,
            reordered=self.reordered + other.reordered,
        )

    def share(self, count: int) -> float:
        """Return a count as a share of their words: 0 for a text without words."""
        return count / self.words if self.words else 0.0

    def row(self) -> str:
        """Return words, lost, doubled, added and reordered in columns, the last four with their share."""
        counts = (self.lost, self.doubled, self.added, self.reordered)
        return f"{self.words:>9,}" + "".join(f"{count:>9,} {self.share(count):>8.3%}" for count in counts)


ROW_TITLE = f"{'words':>9}" + "".join(f"{name:>18}" for name in ("lost", "doubled", "added", "reordered"))
"""Heads of the columns of ``WordDiff.row``."""


def split_words(text: str) -> list[str]:
    """Return the words of a text as they are compared: compatibility forms unified, lower case, no punctuation. Pure.

    Every Chinese, Japanese or Korean character is a word of its own.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).translate(_INVISIBLE).casefold())


def compare_words(ours: str, theirs: str) -> WordDiff:
    """Return what ``ours`` lacks, repeats, adds and moves, compared with ``theirs``. Pure.

    Cost: linear in both texts. The order is compared by pairs of neighbours: a paragraph that moved costs two pairs,
    lines in reverse order two per line, words in reverse order all.
    """
    ours_list, theirs_list = split_words(ours), split_words(theirs)
    ours_words, theirs_words = Counter(ours_list), Counter(theirs_list)
    surplus = ours_words - theirs_words
    missing_pairs = Counter(pairwise(theirs_list)) - Counter(pairwise(ours_list))
    return WordDiff(
        words=len(theirs_list),
        lost=(theirs_words - ours_words).total(),
        doubled=sum(count for word, count in surplus.items() if word in theirs_words),
        added=sum(count for word, count in surplus.items() if word not in theirs_words),
        reordered=sum(
            count for (first, second), count in missing_pairs.items() if first in ours_words and second in ours_words
        ),
    )
