"""The interface of a model, and the limits that Ollama puts on a text.

Imitates Ollama 0.33, `server/routes.go` (`EmbedHandler`): a text longer than the context is cut, or refused when the
request says `"truncate": false`. The context is `num_ctx` of the model's Modelfile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

CONTEXT_EXCEEDED = "the input length exceeds the context length"
NOT_A_NUMBER = "embedding contains NaN or Inf values"


class RefusedTextError(Exception):
    """The model cannot embed this text as requested; the whole request answers 400 with the message."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One text and its tokens, special tokens not counted."""

    text: str
    token_count: int
    ids: tuple[int, ...] = ()
    """Vocabulary ids; empty for models that work on the text itself."""


class EmbeddingModel(Protocol):
    """A model that is loaded on demand. Methods are called from worker threads, several at a time."""

    @property
    def name(self) -> str:
        """The name with its tag, as `/api/tags` lists it."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def trained_context(self) -> int:
        """Tokens the model was trained for (`context_length`), special ones included."""

    @property
    def num_ctx(self) -> int:
        """Tokens that a text may have, special ones included; `num_ctx` of the Modelfile."""

    @property
    def special_tokens(self) -> int:
        """Tokens added to every text."""

    @property
    def size_bytes(self) -> int:
        """Size of the weights."""

    def read_digest(self) -> str:
        """Return the sha256 of the weights, 64 hex digits."""

    def read_vocabulary(self) -> Sequence[str] | None:
        """Return the word pieces in the form of a GGUF file; None for a model that has none."""

    def load(self) -> None:
        """Make `tokenize` and `embed` ready. Idempotent."""

    def unload(self) -> None:
        """Free what `load` reads. Idempotent."""

    def tokenize(self, text: str) -> TokenizedText:
        """Return the tokens of the whole text."""

    def embed(self, tokens: TokenizedText, limit: int) -> Vector:
        """Return float32[dimension] of the first `limit` tokens, not normalised.

        Raises:
            RefusedTextError: the model gives no finite vector for it.
        """


def limit_tokens(model: EmbeddingModel, token_count: int, *, truncate: bool) -> int:
    """Return how many tokens (without special ones) of a text of `token_count` are embedded. Pure.

    Raises:
        RefusedTextError: the text is too long and `truncate` is false.
    """
    limit = model.num_ctx - model.special_tokens
    if token_count > limit and not truncate:
        raise RefusedTextError(CONTEXT_EXCEEDED)
    return min(token_count, limit)


def normalize(vector: Vector) -> Vector:
    """Return the vector with length 1 in float32; a zero vector stays zero. Pure.

    Raises:
        RefusedTextError: a value is NaN or infinite.
    """
    if not np.isfinite(vector).all():
        raise RefusedTextError(NOT_A_NUMBER)
    exact = vector.astype(np.float64)
    return (exact / max(float(np.sqrt(np.dot(exact, exact))), 1e-12)).astype(np.float32)
