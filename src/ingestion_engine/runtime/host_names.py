"""Which names in the ``Host`` header of a request are those of this server.

A web page may point a name of its own at any address ("DNS rebinding"): its script then reaches servers on this machine
or in this network as if it came from them, and all that shows it is the name.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")

PRIVATE_SUFFIXES: Final = (".local", ".internal", ".localhost", ".svc", ".home.arpa", ".test")
"""Ends of names that nobody can register: those that RFC 6761, 6762 and 8375 and ICANN reserve for private use, and
Kubernetes' short form of its services."""


def split_host(value: str) -> tuple[str, int | None] | None:
    """Return name and port of a ``Host`` header, the name in lower case; None where it is malformed. Pure."""
    found = _HOST.fullmatch(value)
    if found is None:
        return None
    port = found["port"]
    return found["name"].lower().rstrip("."), None if port is None else int(port)


def is_ip_address(name: str) -> bool:
    """Return whether a name, IPv6 in brackets, is an IP address: no page can have it as its own name. Pure."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine only, IPv6 also in brackets. Pure."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def host_of_url(url: str) -> str | None:
    """Return the host of a URL in lower case, also of ``dns+http://...``; None without one. Pure."""
    try:
        name = urlsplit(url.removeprefix("dns+")).hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


class HostRules:
    """The names that a server accepts: IP addresses, ``localhost``, this machine's own name, and those given.

    Args:
        names: Further names; ``*.example.com`` means every name below it, ``*`` every name.
        accepts_private: Also accept names that no page on the Internet can have: without a dot, or with an end of
            ``PRIVATE_SUFFIXES``.
    """

    def __init__(self, names: Collection[str] = (), *, accepts_private: bool = False) -> None:
        own = socket.gethostname().lower()
        self._names = frozenset({"localhost", own, *(name for name in names if not name.startswith("*"))})
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*.")) + (
            PRIVATE_SUFFIXES if accepts_private else ()
        )
        self._accepts_all = "*" in names
        self._accepts_private = accepts_private

    def accepts(self, host: str) -> bool:
        """Return whether a ``Host`` header names this server. Pure."""
        parts = split_host(host)
        if parts is None:
            return False
        name, _ = parts
        return (
            self._accepts_all
            or name in self._names
            or name.endswith(self._suffixes)
            or is_ip_address(name)
            or (self._accepts_private and "." not in name)
        )
