"""A PostgreSQL with TLS: the server's own, or in front of one that was built without it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator, Callable

import trustme

from support.postgres import Postgres


@contextlib.asynccontextmanager
async def encrypted_postgres(certificate: trustme.LeafCert) -> AsyncIterator[Callable[[str], str]]:
    """Start a server with a certificate; yield the function that makes its URL with a query."""
    server = Postgres()
    try:
        if b"libssl" in (server.binaries / "postgres").read_bytes():
            server.options = _use_certificate(server, certificate)
            server.start()
            yield lambda query: server.url(query=query)
        else:
            server.start()
            async with _tls_in_front(server, certificate) as port:
                yield lambda query: server.url(query=query).replace(f":{server.port}/", f":{port}/")
    finally:
        server.close()


def _use_certificate(server: Postgres, certificate: trustme.LeafCert) -> tuple[str, ...]:
    blobs = {"ssl_cert_file": certificate.cert_chain_pems[0], "ssl_key_file": certificate.private_key_pem}
    options = ["ssl=on"]
    for name, blob in blobs.items():
        path = server.folder / name
        blob.write_to_path(path)
        path.chmod(0o600)
        if server.user is not None:
            shutil.chown(path, server.user)
        options.append(f"{name}={path}")
    return tuple(options)


@contextlib.asynccontextmanager
async def _tls_in_front(server: Postgres, certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """Accept the request for TLS, as a server does, and pass what arrives encrypted to one without TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "the client requests no TLS"
        writer.write(b"S")
        with contextlib.suppress(OSError):  # the client does not accept the certificate, or ends
            await writer.start_tls(context)
            behind, to_behind = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(pump(reader, to_behind), pump(behind, writer))
        writer.close()

    front = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield front.sockets[0].getsockname()[1]
    finally:
        front.close()
