"""One model with its queue: what Ollama calls a runner.

Imitates Ollama 0.33 (`server/sched.go`, `llm/llama_server.go`): an embedding model runs with parallel=1 behind an
unbounded FIFO semaphore, so overload appears as waiting, never as 503. One request is served at a time, in order of
arrival, and a request whose client disconnected leaves the queue. Inside a request the texts are spread over threads,
one text per inference, so a vector never depends on its batch. A text that is refused does not stop the others: the
call fails when all of them are embedded, in vain. The model stays loaded once it was used.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ingestion_devstack.ollama.faults import EmbedStats
from ingestion_devstack.ollama.model import EmbeddingModel, RefusedTextError, TokenizedText, Vector, limit_tokens
from ingestion_devstack.ollama.requests import EmbedCall

RUNNER_DIED = 'do embedding request: Post "http://127.0.0.1:1/v1/embeddings": EOF'
"""Answer, with status 400, to the call under which a runner dies; the port is that of the runner."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcome of one call; vectors[i] belongs to texts[i], not normalised."""

    vectors: tuple[Vector, ...]
    token_count: int
    """Tokens evaluated, special ones included."""
    load_s: float
    """Time to make the model ready; almost nothing if it was. Waiting in the queue is not counted, as in Ollama."""


class Runner:
    """Serves one model; create it inside the event loop. Loads on the first call."""

    def __init__(self, model: EmbeddingModel, pool: ThreadPoolExecutor, *, threads: int, stats: EmbedStats) -> None:
        """Embed `threads` texts of one call at a time on `pool`."""
        self.model = model
        self._pool = pool
        self._threads = threads
        self._stats = stats
        self._turn = asyncio.Lock()
        self.is_loaded = False
        """Whether the model was loaded; a runner that died is not noticed before the next call."""

    async def embed(self, call: EmbedCall) -> Embedded:
        """Embed all texts of the call, all or nothing.

        Raises:
            RefusedTextError: a text was refused; nothing is returned for the others, though they were embedded.

        Cost: waits for all calls before it, then about 38 ms per 125 tokens, text and core. Cancelling it frees its
        place.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            began = time.perf_counter()
            await _finish(loop.run_in_executor(self._pool, self.model.load))
            load_s = time.perf_counter() - began
            self.is_loaded = True
            if not call.texts:
                return Embedded((), token_count=0, load_s=load_s)
            work = _Work(self.model, call.texts, truncate=call.truncate)
            try:
                await _finish(loop.run_in_executor(self._pool, work.tokenize), on_cancel=work.stop)
                threads = min(self._threads, len(call.texts))
                inferences = [loop.run_in_executor(self._pool, work.infer) for _ in range(threads)]
                outcomes = await _finish(asyncio.gather(*inferences, return_exceptions=True), on_cancel=work.stop)
                for error in (*filter(None, outcomes), *work.refusals):
                    raise error
            except RefusedTextError:
                self._stats.refused_requests += 1
                raise
            finally:
                self._stats.texts_embedded += len(work.vectors)
                self._stats.texts_in_vain += len(work.vectors)
        self._stats.texts_in_vain -= len(work.vectors)
        vectors = tuple(work.vectors[index] for index in range(len(call.texts)))
        return Embedded(vectors, sum(work.kept) + self.model.special_tokens * len(vectors), load_s=load_s)

    async def die(self) -> None:
        """Lose the loaded model, after the calls before this one; the next call loads it again."""
        async with self._turn:
            await asyncio.to_thread(self.model.unload)


class _Work:
    """The texts of one call, taken one by one by several threads, longest first so that the threads end together."""

    def __init__(self, model: EmbeddingModel, texts: Sequence[str], *, truncate: bool) -> None:
        self._model = model
        self._texts = texts
        self._truncate = truncate
        self._tokens: list[TokenizedText] = []
        self._waiting: list[int] = []
        self._lock = threading.Lock()
        self._stopped = False
        self.kept: list[int] = []
        """Tokens taken of each text."""
        self.refusals: list[RefusedTextError] = []
        """In the order in which they were found: the first one is the answer."""
        self.vectors: dict[int, Vector] = {}

    def stop(self) -> None:
        """Take no further text."""
        self._stopped = True

    def tokenize(self) -> None:
        """Tokenise all texts; those over the context are refused, the others wait for their inference."""
        for index, text in enumerate(self._texts):
            if self._stopped:
                return
            tokens = self._model.tokenize(text)
            self._tokens.append(tokens)
            try:
                self.kept.append(limit_tokens(self._model, tokens.token_count, truncate=self._truncate))
                self._waiting.append(index)
            except RefusedTextError as refusal:
                self.kept.append(0)
                self.refusals.append(refusal)
        self._waiting.sort(key=self.kept.__getitem__)

    def infer(self) -> None:
        """Embed waiting texts until none is left, or until the call is stopped or fails for another reason."""
        while not self._stopped:
            with self._lock:
                if not self._waiting:
                    return
                index = self._waiting.pop()
            try:
                self.vectors[index] = self._model.embed(self._tokens[index], self.kept[index])
            except RefusedTextError as refusal:
                self.refusals.append(refusal)
            except BaseException:
                self._stopped = True
                raise


async def _finish(work: asyncio.Future[Any], on_cancel: Callable[[], None] | None = None) -> Any:
    """Wait for thread work to end, also when cancelled: the next call must not start while a thread still computes."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await asyncio.wait([work])
        raise
