"""What keeps other users of the machine, and web pages, off the inner ports of SeaweedFS.

Its filer serves and changes all buckets to everybody who reaches its port, by HTTP and by gRPC, and so do master and
volume server: only the S3 port asks for credentials. So all other ports require a client certificate of an authority
that is made for each start and kept nowhere, and tokens besides. The files follow ``weed scaffold -config=security``.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Final

import trustme

from ingestion_devstack.kubernetes.config import write_private
from ingestion_devstack.stack.private_files import make_private
from ingestion_devstack.stack.processes import LOOPBACK

_GRPC: Final = ("master", "volume", "filer", "s3", "admin", "worker", "mq", "msg_broker", "msg_agent", "client")
_HTTP: Final = ("master", "volume", "filer", "admin")
_TOKENS: Final = ("signing", "signing.read", "filer_signing", "filer_signing.read")


def write_security(directory: Path) -> Path:
    """Write ``security.toml`` with a new authority, certificate and keys; return the directory, for ``-config_dir``.

    Modes are 0700 and 0600. The certificate is valid until 2038 (trustme's default).
    """
    make_private(directory)
    authority = trustme.CA(organization_name="Ingestion engine embedded S3")
    issued = authority.issue_cert(LOOPBACK, "localhost", common_name="ingest")
    ca, cert, key = (directory / name for name in ("ca.crt", "server.crt", "server.key"))
    write_private(ca, authority.cert_pem.bytes())
    write_private(cert, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    write_private(key, issued.private_key_pem.bytes())
    pair = {"cert": str(cert), "key": str(key)}
    sections: dict[str, dict[str, str | bool]] = {
        "grpc": {"ca": str(ca)},
        **{f"grpc.{name}": {**pair} for name in _GRPC},
        **{f"https.{name}": {**pair, "ca": str(ca)} for name in _HTTP},
        "https.client": {**pair, "ca": str(ca), "enabled": True},
        **{f"jwt.{name}": {"key": secrets.token_urlsafe(32)} for name in _TOKENS},
    }
    lines = []
    for section, values in sections.items():
        # A text of JSON is one of TOML as well.
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items()), ""]
    write_private(directory / "security.toml", "\n".join(lines).encode())
    return directory
