"""What the Ollama stand-in asks of a model, and how texts are cut to its context window.

A model turns a text into tokens (`tokenize`) and the first tokens into one vector (`embed`). The window repeats
Ollama's two limits: the context (`num_ctx`, at most what the model was trained with) and the runner's physical batch
(`num_batch`), which cuts silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

_DEFAULT_NUM_CTX = 4096
"""Ollama's own context length for models whose Modelfile names none, on a machine with little video memory."""
_MAX_DEFAULT_NUM_BATCH = 2048
"""Ollama's default physical batch for embedding models (llm/llama_server.go, v0.33)."""
_MIN_RUNNER_CTX = 4
"""Ollama never starts a runner with a smaller context (server/sched.go, v0.33)."""

CONTEXT_EXCEEDED = "the input length exceeds the context length"
NOT_A_NUMBER = "embedding contains NaN or Inf values"


class RefusedTextError(Exception):
    """The model cannot embed this text as asked; the whole request answers 400 with the message."""


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
    def default_num_ctx(self) -> int | None:
        """`num_ctx` of the Modelfile; None means Ollama's own default."""

    @property
    def special_tokens(self) -> int:
        """Tokens the runner adds to every text."""

    @property
    def size_bytes(self) -> int:
        """Size of the weights."""

    def read_digest(self) -> str:
        """The sha256 of the weights, 64 hex digits."""

    def load(self) -> None:
        """Make `tokenize` and `embed` ready. Idempotent."""

    def unload(self) -> None:
        """Give the memory back. Idempotent."""

    def tokenize(self, text: str) -> TokenizedText:
        """Return the tokens of the whole text."""

    def embed(self, tokens: TokenizedText, limit: int) -> Vector:
        """Return float32[dimension] of the first `limit` tokens, not normalised.

        Raises:
            RefusedTextError: the model gives no finite vector for it.
        """


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """How many tokens of a text Ollama lets through. Counts include special tokens. Pure."""

    context: int
    """min(num_ctx, trained context): the limit that `truncate` speaks about."""
    num_batch: int
    """The cut of the second try, after the runner refused the text."""
    runner: int
    """Physical batch of the runner: a longer text is refused by it."""
    special: int

    @classmethod
    def of(cls, model: EmbeddingModel, num_ctx: int | None, num_batch: int | None) -> TokenWindow:
        """Apply Ollama's rules to the options of a request (None: not given).

        Source: server/routes.go `EmbedHandler`, llm/llama_server.go `embeddingBatchSize`, v0.33; `num_ctx` of 0 lifts
        the context limit to the trained one while the runner starts with 4 tokens, as there.
        """
        asked = model.default_num_ctx or _DEFAULT_NUM_CTX if num_ctx is None else num_ctx
        context = min(asked, model.trained_context) if asked > 0 else model.trained_context
        if num_batch is None:
            num_batch = min(_MAX_DEFAULT_NUM_BATCH, asked) if asked > 0 else _MAX_DEFAULT_NUM_BATCH
        runner = min(max(asked, _MIN_RUNNER_CTX), model.trained_context)
        if num_batch > 0:
            runner = min(runner, num_batch)
        return cls(context=context, num_batch=num_batch, runner=runner, special=model.special_tokens)

    def admit(self, token_count: int, *, truncate: bool) -> int:
        """Return how many tokens (without special ones) of a text of `token_count` are embedded.

        Raises:
            RefusedTextError: too long and `truncate` is false, or nothing is left after the cut.
        """
        added = self.special if token_count else 0
        limit = self.context - added
        if limit <= 0:
            raise RefusedTextError("input after truncation exceeds maximum context length")
        if token_count > limit and not truncate:
            raise RefusedTextError(CONTEXT_EXCEEDED)
        kept = min(token_count, limit)
        if kept + added <= self.runner:
            return kept
        if not truncate:
            raise RefusedTextError(CONTEXT_EXCEEDED)
        return self._cut_again(kept, added)

    def admit_whole(self, token_count: int) -> int:
        """Return `token_count` if the runner takes it in one piece, as the legacy endpoint demands.

        Raises:
            RefusedTextError: the text is longer than the runner's physical batch.
        """
        if token_count + self.special > self.runner:
            raise RefusedTextError(CONTEXT_EXCEEDED)
        return token_count

    def _cut_again(self, kept: int, added: int) -> int:
        limit = min(self.context, self.num_batch) - added if self.num_batch > 0 else self.context - added
        if limit <= 0:
            raise RefusedTextError("input after truncation exceeds maximum context length")
        if kept <= limit:
            raise RefusedTextError("input exceeds maximum context length and cannot be truncated further")
        if limit + added > self.runner:
            raise RefusedTextError(CONTEXT_EXCEEDED)
        return limit


def normalize(vector: Vector) -> Vector:
    """Return the vector with length 1 in float32; a zero vector stays zero. Pure.

    Raises:
        RefusedTextError: a value is NaN or infinite.
    """
    if not np.isfinite(vector).all():
        raise RefusedTextError(NOT_A_NUMBER)
    length = max(float(np.sqrt(np.dot(vector.astype(np.float64), vector.astype(np.float64)))), 1e-12)
    return (vector.astype(np.float64) / length).astype(np.float32)
