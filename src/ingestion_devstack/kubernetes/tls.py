"""The server's certificate: kubectl sends its token over TLS only, so the stand-in speaks HTTPS like any cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

from ingestion_devstack.kubernetes.config import write_private


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of one certificate. The key of the authority that signed it is not kept."""

    authority: Path
    certificate: Path
    key: Path


def ensure_certificate(data_dir: Path) -> Certificate:
    """Return the certificate of a data directory for `localhost` and 127.0.0.1; make it when it is missing.

    Idempotent. The key is readable by its owner only. The certificate is valid until 2038 (trustme's default).
    """
    folder = data_dir / "tls"
    files = Certificate(folder / "ca.crt", certificate=folder / "server.crt", key=folder / "server.key")
    if not files.certificate.exists():
        authority = trustme.CA(organization_name="Ingestion engine stand-in")
        issued = authority.issue_cert("localhost", "127.0.0.1")
        write_private(files.authority, authority.cert_pem.bytes())
        write_private(files.key, issued.private_key_pem.bytes())
        write_private(files.certificate, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return files
