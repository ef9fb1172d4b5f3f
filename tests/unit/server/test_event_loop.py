"""Rounds of the event loop: a part of what is ready, in turn, and new connections do not wait for all others."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from collections.abc import Iterator

import pytest

from ingestion_engine.server.event_loop import AT_ONCE, FIRST, NEWEST, TurnSelector, new_event_loop

MANY = 5 * AT_ONCE


@pytest.fixture
def ready() -> Iterator[tuple[TurnSelector, list[socket.socket]]]:
    """A selector of sockets that all have something to read."""
    with contextlib.ExitStack() as stack:
        selector = TurnSelector()
        stack.callback(selector.close)
        own = []
        for _ in range(FIRST + MANY + NEWEST):
            one, other = socket.socketpair()
            stack.callback(one.close)
            stack.callback(other.close)
            other.send(b"a")
            selector.register(one, selectors.EVENT_READ)
            own.append(one)
        yield selector, own


def read(selector: TurnSelector) -> set[int]:
    return {key.fd for key, _ in selector.select(0)}


def test_all_get_their_turn(ready: tuple[TurnSelector, list[socket.socket]]) -> None:
    """Also while all of them remain ready; the loop's own files and the newest connections are in each round."""
    selector, own = ready
    always = {one.fileno() for one in (*own[:FIRST], *own[-NEWEST:])}
    rounds = [read(selector) for _ in range(MANY // AT_ONCE)]
    for found in rounds:
        assert always <= found
        assert len(found) == FIRST + AT_ONCE + NEWEST
    assert set().union(*rounds) == {one.fileno() for one in own}
    assert sum(len(found) for found in rounds) == MANY + len(rounds) * (FIRST + NEWEST)  # nobody twice


def test_few_are_served_at_once(ready: tuple[TurnSelector, list[socket.socket]]) -> None:
    """And who has been registered again is the newest."""
    selector, own = ready
    again = own[FIRST + AT_ONCE]
    selector.unregister(again)
    selector.register(again, selectors.EVENT_READ)
    assert again.fileno() in read(selector)
    for one in own[AT_ONCE:]:
        selector.unregister(one)
    assert read(selector) == {one.fileno() for one in own[:AT_ONCE]}
    with pytest.raises(KeyError):
        selector.unregister(again)
    with pytest.raises(KeyError):
        selector.register(own[0], selectors.EVENT_READ)


def test_files_are_watched_for_what_was_asked(ready: tuple[TurnSelector, list[socket.socket]]) -> None:
    """Old ones and new ones, also after a change; a file that was closed first is forgotten all the same."""
    selector, own = ready
    for one in own[:-1]:
        selector.unregister(one)
    last = own[-1]
    for _ in range(2):
        selector.modify(last, selectors.EVENT_WRITE, "data")
        ((key, events),) = selector.select(0)
        assert (key.fd, key.data, events) == (last.fileno(), "data", selectors.EVENT_WRITE)
        selector.modify(last, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert selector.select(0)[0][1] == selectors.EVENT_READ | selectors.EVENT_WRITE
        for one in own[:NEWEST]:
            selector.register(one, selectors.EVENT_WRITE)
        for one in own[:NEWEST]:
            selector.unregister(one)
    last.recv(1)
    selector.modify(last, selectors.EVENT_READ)
    assert selector.select(0.001) == []
    last.close()
    selector.unregister(last)
    assert not selector.get_map()


async def serve_in_rounds(number: int) -> list[int]:
    """Return how many connections each round of the running loop has served, all ready at once."""
    loop = asyncio.get_running_loop()
    served: list[int] = []
    with contextlib.ExitStack() as stack:

        def serve(one: socket.socket) -> None:
            loop.remove_reader(one)
            served[-1] += 1

        for _ in range(number):
            one, other = socket.socketpair()
            stack.callback(one.close)
            stack.callback(other.close)
            other.send(b"a")
            loop.add_reader(one, serve, one)
        for _ in range(number):
            served.append(0)
            await asyncio.sleep(0)
    return served


def test_a_round_of_the_loop_is_short() -> None:
    """However many are ready."""
    loop = new_event_loop()
    try:
        served = loop.run_until_complete(serve_in_rounds(500))
    finally:
        loop.close()
    assert sum(served) == 500
    assert max(served) <= FIRST + AT_ONCE + NEWEST
