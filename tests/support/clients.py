"""Both clients of the service behind one face, so that each test runs with either of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from ingestion_engine.client import AsyncIngestClient, IngestClient

KINDS = ("blocking", "asynchronous")

Serve = Callable[..., tuple["AnyClient", "Script", "Clock"]]
"""Makes a client, its service, which gives one answer after the other, and the clock of both."""


@dataclass
class Clock:
    """Time of a test: it passes while a client sleeps."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class AnyClient:
    """A client whose methods block, whichever kind it is: ``client.get_job("job-1")``, ``client.watch("job-1")``."""

    def __init__(self, kind: str, url: str, *args: Any, clock: Clock | None = None, **kwargs: Any) -> None:
        self._runner = asyncio.Runner() if kind == "asynchronous" else None
        self.client: Any = (AsyncIngestClient if self._runner else IngestClient)(url, *args, **kwargs)
        if clock is not None:
            self.client._now = clock
            self.client._sleep = clock.sleep if self._runner is None else _asynchronous(clock.sleep)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        runner = self._runner
        if runner is None:
            return method  # type: ignore[no-any-return]  # a method of the client

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return _iterate(runner, result) if hasattr(result, "__anext__") else runner.run(result)

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is None:
            self.client.close()
            return
        self._runner.run(self.client.aclose())
        self._runner.close()


def _iterate(runner: asyncio.Runner, items: Any) -> Iterator[Any]:
    async def following() -> Any:
        return await anext(items)

    try:
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield runner.run(following())
    finally:
        runner.run(items.aclose())


def _asynchronous(sleep: Callable[[float], None]) -> Callable[[float], Any]:
    async def sleep_async(seconds: float) -> None:
        sleep(seconds)

    return sleep_async


class Script:
    """A service that gives one answer after the other: a response, an error of the network, or a function."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer = answer(request) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.requests]


def answer(status: int = 200, body: Any = None, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    """An answer with a JSON body that may be given several times."""
    return lambda _request: httpx.Response(
        status, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def answer_of(response: httpx.Response) -> Callable[[httpx.Request], httpx.Response]:
    """An answer that copies a response each time, because a client uses it up."""
    head = {name: value for name, value in response.headers.items() if name != "content-length"}
    return lambda _request: httpx.Response(response.status_code, headers=head, content=response.content)


def problem(status: int, code: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"urn:ingestion-engine:problem:{code}", "status": status, "code": code, "detail": "No.", **fields}


def events(*jobs: dict[str, Any], ids: bool = True) -> bytes:
    """The body of an event stream."""
    import orjson

    blocks = [b"retry: 2000\n\n"]
    for number, job in enumerate(jobs):
        head = b"id: %d\n" % number if ids else b""
        blocks.append(head + b"event: state\ndata: " + orjson.dumps(job) + b"\n\n")
    return b"".join(blocks)
