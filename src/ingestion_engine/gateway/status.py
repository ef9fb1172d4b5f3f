"""What the gateway says of itself: readiness, servers, flows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ingestion_engine.adapters.ollama.server_pool import Server, ServerState
from ingestion_engine.gateway.app import reply_json
from ingestion_engine.gateway.dispatcher import Dispatcher
from ingestion_engine.gateway.forward import Reply
from ingestion_engine.gateway.peers.polling import Peers
from ingestion_engine.gateway.scheduling.fair_queue import FlowStatus


class Status:
    """Views of the state of a gateway."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        peers: Peers,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show a dispatcher and its pool, and the other gateways."""
        self._dispatcher = dispatcher
        self._pool = dispatcher.pool
        self.peers = peers
        self._clock = clock

    def servers(self) -> list[dict[str, Any]]:
        """Return every server of the pool: what it is used for, and why not."""
        membership = self.peers.membership
        owned = membership.rights().servers
        differing = {model: self._pool.find_differing(model) for model in self._pool.models_asked_for}
        return [
            {
                "url": server.url,
                "state": self.find_state(server),
                "reason": server.last_error,
                "owned": owned is None or server.url in owned,
                "owner": membership.find_owner(server.url),
                "in_flight": server.in_flight,
                "limit": server.limit.limit,
                "done": server.done,
                "failed": server.failed,
                "texts": server.texts,
                "chars": server.chars,
                "differs": {model: found[server.url] for model, found in differing.items() if server.url in found},
            }
            for server in self._pool.servers
        ]

    def find_state(self, server: Server) -> str:
        """Return the state of a server: up, cooling, half_open, or unknown until it has answered for the first time."""
        state = self._pool.find_state(server)
        if state is ServerState.UP and not self._pool.models.is_known(server.url):
            return "unknown"
        return str(state)

    def ready(self) -> Reply:
        """Return the answer of ``/readyz``: 503 when no server can be used or requests are refused.

        A gateway on standby is ready, or replacing gateways one after another would never go on.
        """
        servers = self.servers()
        up = [one for one in servers if one["state"] == ServerState.UP]
        usable = any(self._pool.is_answering(server) for server in self._pool.servers)
        refusal = self._dispatcher.refusal
        is_refusing = refusal is not None and not self.peers.membership.is_standby
        status = "unavailable" if is_refusing or not usable else "ok" if len(up) == len(servers) else "degraded"
        view = {
            "status": status,
            "reason": refusal or (None if usable else "No Ollama server is available."),
            "servers": {
                one["url"]: {name: one[name] for name in ("state", "reason", "owned", "owner", "differs")}
                for one in servers
            },
            "gateways": self.peers.view(),
        }
        return reply_json(view, 503 if status == "unavailable" else 200)

    def flows(self) -> Reply:
        """Return the answer of ``GET /gateway/flows``."""
        now = self._clock()
        queue = self._dispatcher.queue
        return reply_json(
            {
                "flows": [_show(flow) for flow in queue.flows(now)],
                "queued": len(queue),
                "queued_bytes": queue.waiting_bytes,
                "in_flight": queue.in_flight,
            }
        )

    def flow(self, key: str) -> Reply:
        """Return the answer of ``GET /gateway/flows/{key}``: the flow's row of its most urgent band; 404 if none."""
        found = [flow for flow in self._dispatcher.queue.flows(self._clock()) if flow.flow == key]
        if not found:
            return reply_json({"error": f"No requests of '{key}' wait or were served in the last seconds."}, 404)
        return reply_json(_show(max(found, key=lambda flow: (flow.queued, flow.in_flight))))

    def drop(self, key: str) -> Reply:
        """Serve ``DELETE /gateway/flows/{key}``."""
        return reply_json({"flow": key, "dropped": self._dispatcher.drop_flow(key)})


def _show(flow: FlowStatus) -> dict[str, Any]:
    return {**asdict(flow), "share": round(flow.share, 4), "waited_s": round(flow.waited_s, 3)}
