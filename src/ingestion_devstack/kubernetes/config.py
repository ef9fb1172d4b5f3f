"""Files that others read: the kubeconfig of clients, and the secrets and config maps of the cluster.

A secret NAME is the directory `DATA_DIR/secrets/NAME` with one file per key, a config map `DATA_DIR/configmaps/NAME`;
both hold in every namespace and are read when a driver starts. There is no API for them: who may write into the data
directory may set them.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

_NAME: Final = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
_KEY: Final = re.compile(r"^[-._a-zA-Z0-9]+$")


def write_kubeconfig(path: Path, url: str, token: str, namespace: str, authority: bytes | None = None) -> None:
    """Write a kubeconfig (mode 0600) that kubectl and the official clients read; JSON, which is YAML too.

    Args:
        path: replaced in one step.
        url: of the API server; kubectl sends the token to `https` only.
        token: the bearer token.
        namespace: what commands without one mean.
        authority: the PEM certificates to trust; None: those of the system.
    """
    cluster = {"server": url}
    if authority is not None:
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "ingest", "cluster": cluster}],
        "users": [{"name": "ingest", "user": {"token": token}}],
        "contexts": [{"name": "ingest", "context": {"cluster": "ingest", "user": "ingest", "namespace": namespace}}],
        "current-context": "ingest",
    }
    _write_private(path, orjson.dumps(config, option=orjson.OPT_INDENT_2))


def write_secret(data_dir: Path, name: str, values: Mapping[str, str]) -> None:
    """Replace the secret `name` of a stand-in's data directory; directories 0700, files 0600.

    Raises:
        ValueError: a name or key that Kubernetes would not take.
    """
    if not _NAME.match(name) or not all(_KEY.match(key) for key in values):
        raise ValueError(f"not a secret's name, or not its keys: {name!r}, {sorted(values)}")
    folder = data_dir / "secrets" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    for key, value in values.items():
        _write_private(folder / key, value.encode())


def read_values(data_dir: Path, kind: str, name: str) -> dict[str, str] | None:
    """All values of a secret (`kind` "secrets") or config map ("configmaps"); None when there is none.

    A file that is not UTF-8 is left out: no environment variable can carry it.
    """
    folder = data_dir / kind / name
    if not _NAME.match(name) or not folder.is_dir():
        return None
    values = {}
    for path in folder.iterdir():
        if _KEY.match(path.name) and path.is_file():
            try:
                values[path.name] = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue
    return values


def _write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step; nobody else can read it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)
