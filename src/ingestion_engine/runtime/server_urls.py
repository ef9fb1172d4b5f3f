"""URLs of servers as settings list them: one server, a server with a declared capacity, or every address of a name."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

LARGEST_CAPACITY: Final = 1024
"""A larger number after ``#`` is a typing error, such as a port."""
NAME_PREFIX: Final = "dns+"
_SCHEMES: Final = ("http", "https")
_USER: Final = re.compile(r"//[^/]*@")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """One entry of a list of servers, for example ``http://host:11434#8`` or ``dns+http://name:11434``."""

    url: str
    """Base URL without ``dns+``, credentials, fragment and final slash."""
    capacity: int | None = None
    """Number of requests that are processed at once behind the URL, as declared after ``#``; for ``dns+``, behind each
    address. None when it is not declared."""
    is_name: bool = False
    """Whether every address of the URL's host is a server of its own (``dns+``)."""
    credentials: str | None = field(default=None, repr=False)
    """User and password, as the URL has them before ``@``."""

    @classmethod
    def parse(cls, entry: str) -> Self:
        """Return an entry of a list of servers. Pure.

        Raises:
            ValueError: names the entry, without its password, and says what it should be.
        """
        text, shown = entry.strip(), _mask(entry)
        is_name = text.lower().startswith(NAME_PREFIX)
        base, hash_mark, fragment = text[len(NAME_PREFIX) if is_name else 0 :].partition("#")
        base = base.rstrip("/")
        parts = _split(base, shown)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ValueError(
                f"{shown!r} is no server: write http://host:port, https://host:port or dns+http://name:port"
            )
        if parts.query:
            raise ValueError(f"{shown!r} has a query; a server is scheme, host, port and path only")
        if hash_mark and not (fragment.isascii() and fragment.isdigit() and 1 <= int(fragment) <= LARGEST_CAPACITY):
            raise ValueError(
                f"{shown!r} has {'#' + fragment!r} in place of a capacity; write the number of requests that the"
                f" server processes at once, from #1 to #{LARGEST_CAPACITY}"
            )
        if is_name and ("@" in parts.netloc or _is_address(parts.hostname)):
            raise ValueError(f"{shown!r} has no host name after 'dns+'; leave 'dns+' out, or name a host to resolve")
        credentials = parts.netloc.rpartition("@")[0] or None
        return cls(hide_credentials(base), int(fragment) if fragment else None, is_name, credentials)

    @property
    def weight(self) -> int:
        """For how many servers the entry counts in shares and default limits: its capacity, else 1.

        A name counts for one server times its capacity, because its addresses are not known in advance.
        """
        return self.capacity or 1

    @property
    def host(self) -> str:
        """The host: a name or an address, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port, also when it is the scheme's own."""
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    def at(self, address: str) -> str:
        """Return the base URL with an address in place of the host; IPv6 gets brackets. Pure."""
        parts = urlsplit(self.url)
        host = f"[{address}]" if ":" in address else address
        return parts._replace(netloc=f"{host}:{self.port}").geturl()


def parse_servers(entries: Iterable[str]) -> tuple[ServerUrl, ...]:
    """Return the entries of a list in order; of several with the same URL only the first. Pure. Raises ValueError."""
    found: dict[tuple[str, bool], ServerUrl] = {}
    for entry in entries:
        server = ServerUrl.parse(entry)
        found.setdefault((server.url, server.is_name), server)
    return tuple(found.values())


def count_servers(entries: Iterable[str]) -> int:
    """Return for how many servers a list counts, declared capacities included. Pure. Raises ValueError."""
    return sum(server.weight for server in parse_servers(entries))


def hide_credentials(url: str) -> str:
    """Return a URL without user and password. Pure."""
    return _USER.sub("//", url)


def restore_credentials(url: str, own: Iterable[str | None]) -> str:
    """Return a URL with the user and password that one of this process's own URLs has for the same server. Pure.

    A URL with credentials stays as it is, and so does one that is not among them; capacities do not matter.
    """
    if hide_credentials(url) != url:
        return url
    for known in own:
        if known and (found := _USER.search(known)) and _strip(hide_credentials(known)) == _strip(url):
            return url.replace("//", found[0], 1)
    return url


def _strip(url: str) -> str:
    return url.partition("#")[0].rstrip("/")


def _split(base: str, shown: str) -> SplitResult:
    try:
        parts = urlsplit(base)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise ValueError(f"{shown!r} is no URL: {error}") from None
    return parts


def _mask(entry: str) -> str:
    """Return an entry without user and password, which a URL may have. Pure."""
    return _USER.sub("//***@", entry)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
