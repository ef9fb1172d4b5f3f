"""Cheap models for tests: a vector is a function of the text's hash alone.

Served only with `--test-models`. A token is four characters (the last may be shorter), there are no special tokens,
and the context is 2,048 tokens, so 8,192 characters. Vectors carry no meaning: two texts are near each other only by
chance.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ingestion_devstack.ollama.model import NOT_A_NUMBER, RefusedTextError, TokenizedText, Vector

CHARS_PER_TOKEN = 4
NAN_MARKER = "\x00NaN"
"""A text that contains this marker is refused as the real server refuses a vector with NaN."""


class HashModel:
    """`hash-N:latest`: N values from a generator seeded with the sha256 of the text. Stateless and fast."""

    trained_context = 2048
    num_ctx = 2048
    special_tokens = 0
    size_bytes = 0

    def __init__(self, dimension: int) -> None:
        """Make vectors of length `dimension`."""
        self.dimension = dimension
        self.name = f"hash-{dimension}:latest"

    def read_digest(self) -> str:
        """Return the sha256 of the name: there are no weights."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    def read_vocabulary(self) -> None:
        """Return None: tokens are characters."""

    def load(self) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to free."""

    def tokenize(self, text: str) -> TokenizedText:
        """Return the number of four-character pieces."""
        return TokenizedText(text=text, token_count=-(-len(text) // CHARS_PER_TOKEN))

    def embed(self, tokens: TokenizedText, limit: int) -> Vector:
        """Return float32[dimension] in [-1, 1), equal everywhere: numpy guarantees PCG64's raw stream.

        Raises:
            RefusedTextError: the kept text contains the NaN marker.
        """
        kept = tokens.text[: limit * CHARS_PER_TOKEN]
        if NAN_MARKER in kept:
            raise RefusedTextError(NOT_A_NUMBER)
        seed = int.from_bytes(hashlib.sha256(kept.encode()).digest(), "big")
        raw = np.random.PCG64(seed).random_raw(self.dimension)
        values: Vector = (raw.astype(np.float64) / 2.0**63 - 1.0).astype(np.float32)
        return values
