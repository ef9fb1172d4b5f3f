"""A private certificate authority, and servers with its certificates: good ones, and each kind of bad one."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import trustme

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Fault(StrEnum):
    """What is wrong with a certificate, by a word of the product's message."""

    EXPIRED = "expired"
    OTHER_HOST = "another host"
    STRANGER = "not trusted"


class PrivateAuthority:
    """An authority that no list of public ones has."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.file = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, fault: Fault | None = None) -> trustme.LeafCert:
        """Return a certificate for 127.0.0.1 and localhost, or one with a fault."""
        if fault is Fault.STRANGER:
            return trustme.CA().issue_cert("127.0.0.1", "localhost")
        if fault is Fault.OTHER_HOST:
            return self._authority.issue_cert("elsewhere.example")
        return self._authority.issue_cert(
            "127.0.0.1", "localhost", not_after=LONG_AGO if fault is Fault.EXPIRED else None
        )

    def context(self, fault: Fault | None = None) -> ssl.SSLContext:
        """Return the context of a server with a certificate of ``issue``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.issue(fault).configure_cert(context)
        return context
