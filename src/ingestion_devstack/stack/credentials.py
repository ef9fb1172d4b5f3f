"""Credentials of the embedded stack: made once per ``DATA_DIR``, stored in a file that only its owner can read."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ingestion_devstack.kubernetes.config import write_private


@dataclass(frozen=True, slots=True)
class Credentials:
    """Secrets of the embedded servers; none of them appears in a command line or a log."""

    s3_access_key_id: str
    s3_secret_access_key: str
    qdrant_api_key: str
    weaviate_api_key: str
    ray_auth_token: str
    kube_token: str


def load_or_make_credentials(path: Path) -> Credentials:
    """Return the credentials in ``path``; a missing file is created (mode 0600), missing values are added."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    made = {field.name: known.get(field.name) or secrets.token_urlsafe(24) for field in fields(Credentials)}
    if not known.get("s3_access_key_id"):
        made["s3_access_key_id"] = secrets.token_hex(10).upper()
    credentials = Credentials(**made)
    if made != known:
        write_private(path, json.dumps(asdict(credentials), indent=2).encode() + b"\n")
    return credentials
