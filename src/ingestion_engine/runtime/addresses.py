"""Hides addresses of internal systems in what callers read: names are for everybody, addresses for operators.

The log has every message in full. A caller with the scope ``admin`` reads it in full, too.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Mapping
from typing import Any, Final

_shown: contextvars.ContextVar[bool] = contextvars.ContextVar("addresses_shown", default=False)

_URL: Final = r"\b[a-z][a-z0-9+.\-]{1,15}://[^\s'\",;<>()\]}]*[^\s'\",;<>()\]}.:]"
_IP: Final = r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]{1,5})?\b|\[[0-9a-fA-F:]{2,39}\](?::[0-9]{1,5})?"
_HOST: Final = r"[A-Za-z0-9][A-Za-z0-9.\-]{0,252}:[0-9]{2,5}\b"
_ONE: Final = rf"(?:{_URL}|{_IP}|{_HOST})"

_AFTER_NAME: Final = re.compile(
    rf" (?:at|through|by way of) ['\"]?{_ONE}(?:,{_ONE})*/?['\"]?|(?<=[a-z]) ['\"]{_URL}['\"]"
)
"""Where the sentence is whole without the address."""
_DATABASE: Final = re.compile(r"(database of jobs)(?: at [^\s'\"]+| in '[^']*'| in \"[^\"]*\")")
_HOST_NAME: Final = re.compile(r"(host(?: name)?) ['\"][A-Za-z0-9.\-]+['\"]|(to host) [A-Za-z0-9.\-]+:[0-9]+")
_TUPLE: Final = re.compile(r"\('[0-9a-fA-F.:]+', [0-9]+(?:, [0-9]+, [0-9]+)?\)")
_ANYWHERE: Final = re.compile(rf"{_URL}|{_IP}")
_HIDDEN: Final = "(address not shown)"

_ADDRESS_FIELDS: Final = frozenset({"url", "urls", "endpoint", "endpoint_url", "host", "server", "servers", "address"})
"""Context of errors that is an address."""


def show_addresses(shown: bool) -> None:  # the only argument
    """Show addresses in the rest of the present context, which belongs to a request of an operator, or hide them."""
    _shown.set(shown)


def are_addresses_shown() -> bool:
    """Return whether the caller of the present request reads addresses; what is shared by callers depends on it."""
    return _shown.get()


def for_caller(text: str) -> str:
    """Return a text as the caller of the present request may read it."""
    return text if _shown.get() else hide_addresses(text)


def context_for_caller(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the context of an error as the caller of the present request may read it."""
    if _shown.get():
        return dict(context)
    kept = {name: value for name, value in context.items() if name not in _ADDRESS_FIELDS}
    return {name: hide_addresses(value) if isinstance(value, str) else value for name, value in kept.items()}


def hide_addresses(text: str) -> str:
    """Return a text without URLs, hosts and IP addresses. Pure. Cost: linear in the length of the text."""
    text = _DATABASE.sub(r"\1", text)
    text = _AFTER_NAME.sub("", text)
    text = _HOST_NAME.sub(lambda found: found[1] or found[2], text)
    text = _TUPLE.sub(_HIDDEN, text)
    return _ANYWHERE.sub(_HIDDEN, text)
