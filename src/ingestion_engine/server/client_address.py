"""Who sends a request, where proxies are before the service."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

_SCHEMES: Final = frozenset({"http", "https"})


class ClientAddress:
    """ASGI middleware: replaces a trusted proxy's address and scheme by those of its client.

    ``X-Forwarded-For`` is read from its end: the first address that is no trusted proxy is the client. What stands
    before it was written by the client itself.

    Args:
        app: The application.
        trusted: Addresses and networks of proxies; from others the headers are ignored.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        client = scope.get("client")
        if scope["type"] == "http" and self._trusted and client is not None and self._is_trusted(client[0]):
            forwarded = _join(scope, b"x-forwarded-for")
            address = self._find_client(forwarded) if forwarded else None
            scheme = _join(scope, b"x-forwarded-proto").strip().lower()
            scope = {
                **scope,
                "client": client if address is None else (address, 0),
                "scheme": scheme if scheme in _SCHEMES else scope["scheme"],
            }
        await self._app(scope, receive, send)

    def _find_client(self, forwarded: str) -> str | None:
        """Return the last address of the list that is no trusted proxy; None when one before it is malformed."""
        address = None
        for part in reversed(forwarded.split(",")):
            address = _read_address(part)
            if address is None or not self._is_trusted(address):
                return address
        return address

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(mapped in network for network in self._trusted)


def _join(scope: Scope, wanted: bytes) -> str:
    return ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == wanted)


def _read_address(part: str) -> str | None:
    """Return an address of the list without its port, which some proxies add. Pure."""
    text = part.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
