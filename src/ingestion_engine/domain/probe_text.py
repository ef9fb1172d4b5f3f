"""Known-good texts: what an embedder must embed before the failure of another text is the fault of that text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

PROBE_TEXT: Final = "The quick brown fox jumps over the lazy dog. "
"""Plain words that every model knows; models and servers have been tested with texts like it."""
_MOST_DOUBLINGS: Final = 20


def make_probe_text(text: str, measure: Callable[[str], float] = len) -> str:
    """Return plain text that is at least half as long for the model as another text, and no longer. Pure.

    A server that has memory for short texts only fails all long ones: none of them is at fault.

    Args:
        text: The other text; for one that is shorter than a sentence the sentence is returned.
        measure: Returns the length of a text for the model, in any unit.
    """
    wanted, probe = measure(text), PROBE_TEXT
    for _ in range(_MOST_DOUBLINGS):
        if measure(probe * 2) > wanted:
            break
        probe *= 2
    return probe.rstrip()
