"""Streams of events end when the credential of their caller does not count any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from ingestion_engine.access.identity import Identities
from ingestion_engine.access.principal import Principal

CHECK_S: Final = 2.0
"""Pause between two looks at the credential. With the age of what is known of keys, a revoked one ends in 5 s."""


async def end_with_credential(
    stream: AsyncIterator[bytes], identities: Identities, caller: Principal, *, every_s: float | None = None
) -> AsyncIterator[bytes]:
    """Yield what a stream yields, until the credential of its caller is revoked or expires.

    Args:
        stream: The stream; closed at the end.
        identities: What knows the credentials.
        caller: Who reads the stream.
        every_s: Pause between two looks in seconds; None means ``CHECK_S``.
    """
    every_s = CHECK_S if every_s is None else every_s
    following: asyncio.Task[bytes | None] | None = None
    try:
        while True:
            following = following or asyncio.create_task(_next(stream))
            done, _ = await asyncio.wait({following}, timeout=every_s)
            if not await identities.is_still_valid(caller):
                return
            if done:
                item = following.result()
                if item is None:
                    return
                following = None
                yield item
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait({following})


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)
