"""The real service on a loopback port, over the working doubles of a ``World``; it can be stopped and started again."""

from __future__ import annotations

import threading
from typing import Any, Self

import uvicorn

from ingestion_engine.server.app import create_app
from support.control import World


class LiveService:
    """A service in a thread of this process."""

    def __init__(self, world: World, **settings: Any) -> None:
        self.world = world
        self.settings = {"dispatch": {"poll_s": 0.05}, **settings}
        self.port = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Number of open connections of clients."""
        assert self._server is not None
        return len(self._server.server_state.connections)

    def start(self) -> None:
        """Start it, the second time on the port of the first."""
        app = create_app(self.world.settings(**self.settings), self.world.parts())
        config = uvicorn.Config(app, port=self.port, log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the service did not start"
            self._thread.join(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop it; streams that are open are cut off."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
