"""One loaded model with its queue: what Ollama calls a runner.

Ollama runs an embedding model with parallel=1 behind an unbounded FIFO semaphore: overload shows as waiting, never as
503. So does this: one request at a time, in order of arrival, and a request whose client went away leaves the queue.
Inside a request the texts are spread over threads, one text per inference, so a vector never depends on its batch.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ingestion_devstack.ollama.faults import EmbedStats
from ingestion_devstack.ollama.model import EmbeddingModel, TokenizedText, TokenWindow, Vector
from ingestion_devstack.ollama.requests import EmbedCall, read_runner_options

_log = logging.getLogger(__name__)

_NEVER = timedelta(days=365 * 290)
"""Go's longest duration, which the real server adds for "stay loaded for ever"."""

Admit = Callable[[TokenWindow, int], int]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcome of one call; vectors[i] belongs to texts[i], not normalised."""

    vectors: tuple[Vector, ...]
    token_count: int
    """Tokens evaluated, special ones included."""
    load_s: float
    """Time to make the model ready; next to nothing if it was. Waiting in the queue is not counted, as there."""


class Runner:
    """Serves one model; create it inside the event loop. Loads on the first call, unloads after `keep_alive`."""

    def __init__(self, model: EmbeddingModel, pool: ThreadPoolExecutor, threads: int, stats: EmbedStats) -> None:
        """`threads` texts of one call are embedded at a time on `pool`."""
        self.model = model
        self._pool = pool
        self._threads = threads
        self._stats = stats
        self._turn = asyncio.Lock()
        self._started_with: object = None
        self._window: TokenWindow | None = None
        self._expires_at: datetime | None = None
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._window is not None

    @property
    def context_length(self) -> int:
        """Context of the loaded runner in tokens; 0 if none is loaded."""
        return self._window.context if self._window else 0

    @property
    def expires_at(self) -> datetime:
        """When the model will be unloaded, unless it is called again."""
        return self._expires_at or datetime.now(UTC)

    async def embed(self, call: EmbedCall, admit: Admit) -> Embedded:
        """Embed all texts of the call, all or nothing; `admit` says how many tokens of a text are taken.

        Raises:
            RefusedTextError: a text was refused; nothing is returned for the others.
            BadRequestError: an option has the wrong type.

        Cost: waits for all calls before it, then about 38 ms per 125 tokens, text and core. Cancelling it frees its
        place.
        """
        options = read_runner_options(call.options)
        window = TokenWindow.of(self.model, options.num_ctx, options.num_batch)
        async with self._turn:
            began = time.perf_counter()
            try:
                await self._ready(options, window)
                ready = time.perf_counter()
                try:
                    vectors, token_count = await self._infer(call.texts, window, admit)
                finally:
                    self._stats.busy_seconds += time.perf_counter() - ready
            finally:
                self._schedule_expiry(call.keep_alive_s)
        return Embedded(vectors=vectors, token_count=token_count, load_s=ready - began)

    def close(self) -> None:
        """Forget the model."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._unload()

    async def _ready(self, options: object, window: TokenWindow) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if self.is_loaded and self._started_with == options:
            return
        if self.is_loaded:
            _log.info("%s is reloaded: the options of the runner changed", self.model.name)
            self._unload()
        self._stats.loads += 1
        await _finish(asyncio.get_running_loop().run_in_executor(self._pool, self.model.load))
        self._started_with, self._window = options, window

    async def _infer(self, texts: Sequence[str], window: TokenWindow, admit: Admit) -> tuple[tuple[Vector, ...], int]:
        if not texts:
            return (), 0
        work = _Work(self.model, texts, window, admit)
        loop = asyncio.get_running_loop()
        try:
            await _finish(loop.run_in_executor(self._pool, work.tokenize), on_cancel=work.stop)
            threads = min(self._threads, len(texts))
            inferences = [loop.run_in_executor(self._pool, work.infer) for _ in range(threads)]
            outcomes = await _finish(asyncio.gather(*inferences, return_exceptions=True), on_cancel=work.stop)
            for error in filter(None, outcomes):
                raise error
        finally:
            self._stats.texts_embedded += len(work.vectors)
        vectors = tuple(work.vectors[index] for index in range(len(texts)))
        return vectors, sum(work.kept) + window.special * len(texts)

    def _schedule_expiry(self, keep_alive_s: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if not self.is_loaded:
            return
        if keep_alive_s > _NEVER.total_seconds():
            keep_alive_s = math.inf
        lasting = _NEVER if math.isinf(keep_alive_s) else timedelta(seconds=keep_alive_s)
        self._expires_at = datetime.now(UTC) + lasting
        if not math.isinf(keep_alive_s):
            self._expiry = asyncio.get_running_loop().call_later(keep_alive_s, self._expire)

    def _expire(self) -> None:
        if not self._turn.locked():
            self._unload()

    def _unload(self) -> None:
        self._window = self._started_with = None
        self.model.unload()


class _Work:
    """The texts of one call, taken one by one by several threads, longest first so that the threads end together."""

    def __init__(self, model: EmbeddingModel, texts: Sequence[str], window: TokenWindow, admit: Admit) -> None:
        self._model = model
        self._texts = texts
        self._window = window
        self._admit = admit
        self._tokens: list[TokenizedText] = []
        self._waiting: list[int] = []
        self._lock = threading.Lock()
        self._stopped = False
        self.kept: list[int] = []
        self.vectors: dict[int, Vector] = {}

    def stop(self) -> None:
        """Take no further text."""
        self._stopped = True

    def tokenize(self) -> None:
        """Tokenise all texts and check their lengths, so that a refused call costs no inference."""
        for text in self._texts:
            if self._stopped:
                return
            tokens = self._model.tokenize(text)
            self._tokens.append(tokens)
            self.kept.append(self._admit(self._window, tokens.token_count))
        self._waiting = sorted(range(len(self.kept)), key=self.kept.__getitem__)

    def infer(self) -> None:
        """Embed waiting texts until none is left, the call is stopped, or one fails."""
        while not self._stopped:
            with self._lock:
                if not self._waiting:
                    return
                index = self._waiting.pop()
            try:
                self.vectors[index] = self._model.embed(self._tokens[index], self.kept[index])
            except BaseException:
                self._stopped = True
                raise


async def _finish(work: asyncio.Future[Any], on_cancel: Callable[[], None] | None = None) -> Any:
    """Wait for thread work to end, also when cancelled: no turn is given on while a thread still computes."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await asyncio.wait([work])
        raise
