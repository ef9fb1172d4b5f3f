"""Trust in the certificates of servers: the file of authorities, and what a failed TLS handshake means."""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ingestion_engine.domain.errors import TlsFailed

PORT_WITHOUT_TLS: Final = "WRONG_VERSION_NUMBER"
"""OpenSSL's reason when the first bytes of a server are not TLS, for example those of an HTTP response."""

_OTHER_HOST: Final = re.compile("mismatch|doesn't match|Peer name|Hostname Verification", re.IGNORECASE)
_NOT_NOW: Final = re.compile("expired|not yet valid")
_GRPC: Final = re.compile(
    r"CERTIFICATE_VERIFY_FAILED[:\s]*(?P<failed>[^\]\"']*)|(?P<host>Hostname Verification[^\]\"']*|Peer name[^\]\"']*)"
    rf"|(?P<plain>{PORT_WITHOUT_TLS})"
)
"""gRPC reports a failed handshake as text only (gRPC 1.78, ``ssl_transport_security.cc``)."""


def check_ca_file(path: Path) -> None:
    """Return when a file holds at least one certificate. Raises ValueError with the reason, without the path."""
    try:
        _read_context(path)
    except OSError as error:  # ssl.SSLError is an OSError too
        reason = "the file holds no certificate in PEM format" if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(reason or type(error).__name__) from error


@functools.cache
def make_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return the TLS context of this process's clients that trust a file, or the usual authorities for None.

    The usual ones are those of ``SSL_CERT_FILE``, otherwise those of certifi. Cost: 0.1 s, once per process and file.
    """
    if ca_file is not None:
        return _read_context(ca_file)
    import httpx  # finds the usual authorities

    return httpx.create_ssl_context()


@functools.cache
def read_authorities(ca_file: Path) -> bytes:
    """Return the content of a PEM file, read once per process, for clients that take no context."""
    return ca_file.read_bytes()


def _read_context(ca_file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca_file))


def find_tls_failure(error: BaseException, server: str, **context: Any) -> TlsFailed | None:
    """Return the product's error when the certificate of a server caused another error; None for all other causes.

    A handshake that was cut off is none: a server that restarts does that too.

    Args:
        error: Error of an HTTP client, which has the error of Python's ``ssl`` among its causes.
        server: Subject of the message, for example ``Qdrant at https://host``.
        context: Context of the returned error.
    """
    for cause in _walk(error):
        if isinstance(cause, ssl.SSLCertVerificationError) and hasattr(cause, "verify_message"):  # not aiohttp's own
            return make_tls_failure(server, str(cause.verify_message or cause), **context)
        if type(cause).__name__ == "CertificateError":  # urllib3's own check of the host; it is not imported here
            return make_tls_failure(server, str(cause), **context)
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None) == PORT_WITHOUT_TLS:
            return make_tls_failure(server, PORT_WITHOUT_TLS, **context)
    return None


def find_grpc_tls_failure(text: str, server: str, **context: Any) -> TlsFailed | None:
    """Return the product's error when gRPC's text is about a certificate; None for all other texts. Pure."""
    match = _GRPC.search(text)
    if match is None:
        return None
    reason = match["failed"] or match["host"] or match["plain"] or "certificate verify failed"
    return make_tls_failure(server, reason.strip(), **context)


def make_tls_failure(server: str, reason: str, **context: Any) -> TlsFailed:
    """Return the error for OpenSSL's reason, with what can be done about it. Pure."""
    reason = reason.rstrip(". ")
    if reason == PORT_WITHOUT_TLS:
        message = f"{server} does not use TLS at this address."
        hint = "Use http:// for a server without TLS, or the port at which it uses TLS; INGEST_TLS__CA_FILE is not "
        hint += "the cause."
    elif _OTHER_HOST.search(reason):
        message = f"The certificate of {server} is for another host: {reason}."
        hint = "Use a host name that the certificate lists, or have it issued for this one; INGEST_TLS__CA_FILE is "
        hint += "not the cause."
    elif _NOT_NOW.search(reason):
        message = f"The certificate of {server} is not valid at present: {reason}."
        hint = "Renew it, or the authority's certificate in INGEST_TLS__CA_FILE; check the clock of this machine."
    else:
        message = f"The certificate of {server} is not trusted: {reason}."
        hint = "Set INGEST_TLS__CA_FILE to a PEM file with the authority that issued it, on this machine and at the "
        hint += "same path on the nodes of the cluster."
    return TlsFailed("tls_failed", message, hint=hint, **context)


def _walk(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes: chained, wrapped as an argument, or as the attribute ``reason``."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args)
        waiting += [one for one in inner if isinstance(one, BaseException)]
