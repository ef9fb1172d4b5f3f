"""Files that other programs read and write: the kubeconfig of clients, and the secrets of the cluster.

A secret NAME is the directory `DATA_DIR/secrets/NAME` with one file per key, as a real kubelet mounts it; it holds in
every namespace and is read when a driver starts. There is no API for secrets: whoever may write into the data directory
may set them. The kubeconfig follows https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import orjson


def write_kubeconfig(path: Path, url: str, *, token: str, namespace: str, authority: bytes) -> None:
    """Write a kubeconfig (mode 0600) that kubectl and the official clients read; JSON, which is YAML too.

    Args:
        path: The file, replaced in one step.
        url: Address of the API server; kubectl sends the token to `https` only.
        token: The bearer token.
        namespace: The default namespace of commands.
        authority: The PEM certificates to trust.
    """
    cluster = {"server": url, "certificate-authority-data": base64.b64encode(authority).decode()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "ingest", "cluster": cluster}],
        "users": [{"name": "ingest", "user": {"token": token}}],
        "contexts": [{"name": "ingest", "context": {"cluster": "ingest", "user": "ingest", "namespace": namespace}}],
        "current-context": "ingest",
    }
    write_private(path, orjson.dumps(config, option=orjson.OPT_INDENT_2))


def write_secret(data_dir: Path, name: str, values: Mapping[str, str]) -> None:
    """Replace the secret `name` of a stand-in's data directory; directories 0700, files 0600.

    A reader finds all values of one writing or, for a moment while a secret is replaced, none.
    """
    folder = data_dir / "secrets" / name
    fresh, old = (folder.with_name(f".{name}.{os.getpid()}.{state}") for state in ("new", "old"))
    for stale in (fresh, old):
        shutil.rmtree(stale, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o700)
    for key, value in values.items():
        write_private(fresh / key, value.encode())
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_secret(data_dir: Path, name: str) -> dict[str, str] | None:
    """Return all values of a secret; None when there is none, or while it is being replaced."""
    if "/" in name or name.startswith("."):
        return None
    try:
        folder = os.open(data_dir / "secrets" / name, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:  # all from the directory that was opened, also when it has another name by now
        return {key: _read_text(key, folder) for key in os.listdir(folder)}  # noqa: PTH208 - no path, a descriptor
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)


def _read_text(name: str, folder: int) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), encoding="utf-8") as file:
        return file.read()


def write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step; only its owner can read it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)
