"""Keep a pool of servers true: resolve names, read what servers serve, and wait until a server has room."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from ingestion_engine.adapters.ollama.responses import model_not_found
from ingestion_engine.adapters.ollama.server_pool import Availability, Flight, Server, ServerPool
from ingestion_engine.adapters.ollama.server_urls import ServerAddress, ServerNames
from ingestion_engine.domain.errors import FatalError, IngestionError, TransientError

POLL_S: Final = 5.0
"""Seconds between two readings of the models of every server by a gateway."""
LONGEST_ORDERED_WAIT_S: Final = 5.0
"""A longer pause that all servers ask for is reported as an outage, so that retries and the driver know of it."""
STEP_S: Final = 0.5
"""Longest pause between two looks of a gateway at what is due."""
REFRESH_MODELS_S: Final = 30.0
"""Seconds after which a worker reads the models of a server in use again, beside its requests: ``ollama pull`` replaces
a model without any failure."""

Probe = Callable[[ServerAddress], Awaitable[Mapping[str, str]]]
"""Returns the digest by name of every model that a server lists. Raises IngestionError when it does not answer."""


class ServerWatch:
    """The part of a pool that sends and waits. For one event loop; clock and sleep can be injected."""

    def __init__(
        self,
        pool: ServerPool,
        names: ServerNames,
        probe: Probe,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Send nothing yet.

        Args:
            pool: The pool to keep true.
            names: Where its servers come from.
            probe: Reads what a server serves.
            clock: Monotonic seconds, the pool's.
            sleep: Waits for a number of seconds.
        """
        self._pool = pool
        self._names = names
        self._probe = probe
        self._clock = clock
        self._sleep = sleep
        self._changed = asyncio.Event()
        self._checks: dict[Server, asyncio.Task[None]] = {}
        self._read_at: dict[Server, float] = {}
        self._errors: dict[Server, IngestionError] = {}
        self._resolving: asyncio.Task[None] | None = None
        pool.subscribe(self._changed.set)

    async def close(self) -> None:
        """End what runs in the background."""
        tasks = [*self._checks.values(), *([self._resolving] if self._resolving else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def keep(self) -> None:
        """Poll every server and resolve every name, until canceled: for a gateway."""
        while True:
            await self._sleep(self.step())

    def step(self) -> float:
        """Start what is due now, and return the seconds until the next look. Waits for nothing."""
        now = self._clock()
        self._resolve_names()
        due = set(self._pool.due())
        for server in self._pool.servers:
            is_polled = server.cool_until <= now and self._read_at.get(server, float("-inf")) + POLL_S <= now
            if server in due or is_polled:
                self._check(server)
        return min(max(self._pool.next_change_at - now, 0.01), STEP_S)

    async def resolve(self) -> None:
        """Resolve the names that are due, and wait for it where no server is known yet."""
        task = self._resolve_names()
        if task is not None and not self._pool.servers:
            await asyncio.shield(task)

    async def check(self, servers: Iterable[Server]) -> None:
        """Read the models of servers, each once however many callers ask, and record what came of it. Never raises."""
        await asyncio.gather(*(asyncio.shield(self._check(server)) for server in list(servers)))

    async def acquire(self, model: str, chars: int, *, digest: str | None = None) -> Flight:
        """Wait for a server with room that serves the digest; the request of ``chars`` characters has begun there.

        Raises:
            FatalError: "model_not_found", "model_digest_differs": no server serves it, and all answer.
            TransientError: no server is available.
        """
        while True:
            await self.resolve()
            for unknown in self._pool.due(model, digest=digest):
                self._check(unknown)  # beside the requests: a server that hangs delays nobody
            server = self._pool.choose(model, digest=digest, hurry=True)
            if server is not None:
                self._refresh_models(server)
                return self._pool.begin(server, chars)
            self._changed.clear()
            if self._pool.find_availability(model, digest=digest) is not Availability.READY:
                due = self._pool.due(model, digest=digest, hurry=True)
                if due:
                    await self.check(due)
                    if not any(self._pool.models.is_known(server.url) for server in due):
                        raise self._find_error(due)
                    continue
                self._check_hope(model, digest)
            pause = self._pool.next_change_at - self._clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if pause == float("inf") else max(pause, 0.001)):
                    await self._changed.wait()

    def _check_hope(self, model: str, digest: str | None) -> None:
        """Return when waiting makes sense; else raise why not."""
        availability = self._pool.find_availability(model, digest=digest)
        servers = self._pool.servers
        if availability is Availability.MODEL_MISSING:
            raise model_not_found(servers[0].url, model, f"Model {model!r} is not listed.")
        if availability is Availability.DIGEST_MISSING:
            raise digest_differs(model, self._pool.models.list_digests(model), wanted=digest)
        if not servers:
            names = ", ".join(self._names.unresolved) or "INGEST_OLLAMA__URLS"
            raise TransientError("ollama_unavailable", f"No Ollama server is known: {names} does not resolve.")
        is_waiting = any(server.in_flight or server.ordered_until <= self._clock() for server in servers)
        first = min(servers, key=lambda server: server.ordered_until)
        if availability is Availability.DOWN and not is_waiting:
            pause_s = first.ordered_until - self._clock()
            if pause_s > LONGEST_ORDERED_WAIT_S:
                message = f"Ollama at {first.url} asked for a pause of {pause_s:.0f} s: {first.last_error}"
                raise TransientError("ollama_unavailable", message, url=first.url, retry_after_s=round(pause_s, 1))

    def _find_error(self, servers: Iterable[Server]) -> IngestionError:
        errors = [error for server in servers if (error := self._errors.get(server)) is not None]
        default = TransientError("ollama_unavailable", "No Ollama server is available.")
        return next((error for error in errors if isinstance(error, TransientError)), errors[0] if errors else default)

    def _refresh_models(self, server: Server) -> None:
        """Read the models of a server in use again, beside its requests, when that was long ago."""
        if not self._pool.models.is_known(server.url):
            return
        read_at = self._read_at.setdefault(server, self._clock())
        if read_at + REFRESH_MODELS_S <= self._clock():
            self._check(server)

    def _resolve_names(self) -> asyncio.Task[None] | None:
        """Start resolving when a name is due; return what runs."""
        if self._resolving is not None and self._resolving.done():
            self._resolving = None
        if self._resolving is None and self._names.due_at <= self._clock():
            self._resolving = asyncio.create_task(self._resolve())
        return self._resolving

    async def _resolve(self) -> None:
        found = await self._names.refresh()
        if found != tuple(server.address for server in self._pool.servers):
            self._pool.set_servers(found)
            for server in (self._read_at.keys() | self._errors.keys()).difference(self._pool.servers):
                self._read_at.pop(server, None)
                self._errors.pop(server, None)

    def _check(self, server: Server) -> asyncio.Task[None]:
        if server not in self._checks:
            task = asyncio.create_task(self._read_models(server))
            self._checks[server] = task
            task.add_done_callback(lambda _: self._checks.pop(server, None))
        return self._checks[server]

    async def _read_models(self, server: Server) -> None:
        began, done = self._clock(), server.done
        self._read_at[server] = began
        try:
            digests = await self._probe(server.address)
        except IngestionError as error:
            if server.is_leaving:
                return
            if server.done > done and self._pool.models.is_known(server.url):
                return  # it serves requests: busy, not down
            self._errors[server] = error
            self._pool.note_unreachable(server, error.message, retry_after_s=error.context.get("retry_after_s"))
            return
        self._errors.pop(server, None)
        if server.failed_at <= began:  # else it failed meanwhile, and may serve something else when it is back
            self._pool.note_models(server, digests)


def digest_differs(model: str, digests: Mapping[str, str], *, wanted: str | None) -> FatalError:
    """Return the error for a model that no server serves as it must be. Pure."""
    message = f"Model '{model}' has digest {wanted} no longer: " if wanted else f"Model '{model}' differs: "
    message += ", ".join(f"{url} has {digest}" for url, digest in digests.items()) + "."
    return FatalError("model_digest_differs", message, hint=SAME_MODEL, model=model, digests=dict(digests))


SAME_MODEL: Final = "Run `ollama pull` on each server of INGEST_OLLAMA__URLS, so that all have the same model."
