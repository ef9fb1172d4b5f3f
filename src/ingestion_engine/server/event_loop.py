"""The event loop of the service: however many connections are ready at once, each of its rounds is short."""

from __future__ import annotations

import asyncio
import contextlib
import math
import select as system
import selectors
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

AT_ONCE: Final = 16
"""Connections that one round serves in turn: one that ends takes about 0.3 ms until its task has ended too. A probe on
a new connection takes five rounds."""

NEWEST: Final = 16
"""Connections that were opened last and are served in every round: a new client does not wait for all others."""

FIRST: Final = 8
"""The oldest registrations are served in every round: what wakes the loop from its threads, and the listening socket.
The loop makes them before it accepts any connection."""

Ready = tuple[selectors.SelectorKey, int]


class TurnSelector(selectors.BaseSelector):
    """Selector that returns a part of what is ready when that is much, in turn: the rest is still ready next time.

    asyncio serves all that a selector returns in one round. Ten thousand clients that go at once would take half a
    second, in which nothing else is done. Two queues of the system: one with what is served in every round, and in it
    another one with the rest, of which it returns the first few that are ready and puts them last. Cost: one call of
    the system more per connection, and per round in which old ones are ready.
    """

    def __init__(self) -> None:
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._always = system.epoll()
        self._in_turn = system.epoll()
        self._always.register(self._in_turn.fileno(), system.EPOLLIN)
        self._first: set[int] = set()
        self._newest: OrderedDict[int, None] = OrderedDict()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Register a file; as the one that was opened last. Raises KeyError when it is registered already."""
        fd = self._find_fd(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} is registered already.")
        self._always.register(fd, _to_epoll(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        if len(self._first) < FIRST and not self._newest:
            self._first.add(fd)
            return key
        self._newest[fd] = None
        if len(self._newest) > NEWEST:
            self._grow_old(next(iter(self._newest)))
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Forget a file. Raises KeyError when it is not registered."""
        fd = self._find_fd(fileobj)
        key = self._keys.pop(fd)
        with contextlib.suppress(OSError):  # closed files have left by themselves
            self._find_queue(fd).unregister(fd)
        self._first.discard(fd)
        self._newest.pop(fd, None)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Change what a file is watched for. Raises KeyError when it is not registered."""
        fd = self._find_fd(fileobj)
        key = self._keys[fd]
        if events != key.events:
            self._find_queue(fd).modify(fd, _to_epoll(events))
        key = self._keys[fd] = key._replace(events=events, data=data)
        return key

    def take_turns(self, timeout: float | None = None) -> list[Ready]:
        """Return files that are ready: all, or those whose turn it is; waits for at most ``timeout`` seconds."""
        wait_s = -1.0 if timeout is None else max(0.0, math.ceil(timeout * 1e3) * 1e-3)
        found = self._always.poll(wait_s, FIRST + NEWEST + 1)
        if any(fd == self._in_turn.fileno() for fd, _ in found):
            found += self._in_turn.poll(0, AT_ONCE)
        ready = []
        for fd, happened in found:
            if (key := self._keys.get(fd)) is not None:
                can_write = selectors.EVENT_WRITE if happened & ~system.EPOLLIN else 0
                can_read = selectors.EVENT_READ if happened & ~system.EPOLLOUT else 0
                ready.append((key, (can_read | can_write) & key.events))
        return ready

    select = take_turns  # the interface's name, which is also a function of the standard library

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return the registered files by descriptor."""
        return self._keys

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """Return what is known of a file. Raises KeyError when it is not registered."""
        return self._keys[self._find_fd(fileobj)]

    def close(self) -> None:
        """Forget all files."""
        self._keys.clear()
        self._in_turn.close()
        self._always.close()

    def _grow_old(self, fd: int) -> None:
        """Have a file wait for its turn from now on."""
        del self._newest[fd]
        with contextlib.suppress(OSError):  # it has been closed
            self._always.unregister(fd)
            self._in_turn.register(fd, _to_epoll(self._keys[fd].events))

    def _find_queue(self, fd: int) -> system.epoll:
        return self._always if fd in self._first or fd in self._newest else self._in_turn

    def _find_fd(self, fileobj: Any) -> int:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd >= 0:
            return int(fd)
        for key in self._keys.values():  # it has been closed
            if key.fileobj is fileobj:
                return key.fd
        raise KeyError(f"{fileobj!r} is not registered.")


def _to_epoll(events: int) -> int:
    reads = system.EPOLLIN if events & selectors.EVENT_READ else 0
    return reads | (system.EPOLLOUT if events & selectors.EVENT_WRITE else 0)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose rounds are short; asyncio's own one where the system has no epoll."""
    return asyncio.SelectorEventLoop(TurnSelector() if hasattr(system, "epoll") else None)
