"""Both clients, with scripted services."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.clients import KINDS, AnyClient, Clock, Script, Serve


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve(kind: str) -> Iterator[Serve]:
    """Make clients of services that give the answers of a script, with a clock that their pauses put forward."""
    with contextlib.ExitStack() as stack:

        def make(*answers: Any, **options: Any) -> tuple[AnyClient, Script, Clock]:
            script, clock = Script(*answers), Clock()
            transport = httpx.MockTransport(script)
            client = AnyClient(kind, options.pop("url", "http://service"), transport=transport, clock=clock, **options)
            return stack.enter_context(client), script, clock

        yield make
