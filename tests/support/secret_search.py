"""Secrets, and the search for them in texts, files and processes of this machine."""

from __future__ import annotations

import base64
import contextlib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ingestion_devstack.stack.service import Service

HOLDERS = {"credentials.json", "stack.env", "keys.json", "ray-token", "kubeconfig", "security.toml", "server.key"}
"""Names of files that exist to hold secrets; only their owner can read them."""

HOLDING_FOLDERS = {"s3-security", "ingest-credentials"}
"""Names of folders of such files: Kubernetes's secret among them."""


def is_holder(path: Path) -> bool:
    """Whether a file exists to hold secrets."""
    return path.name in HOLDERS or path.parent.name in HOLDING_FOLDERS


ZEROS = bytes(4096)
"""What files are filled with that are made larger than their content; a third of a gigabyte of Qdrant's."""


@dataclass
class Secrets:
    """Secrets by name; each is searched for as it is, and in base64 wherever it begins there."""

    by_name: dict[str, str] = field(default_factory=dict)

    def find(self, content: str | bytes) -> set[str]:
        """Return the names of the secrets in a text or file."""
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content.replace(ZEROS, b"")
        return {name for name, secret in self.by_name.items() if any(form in data for form in forms_of(secret))}

    def find_each(self, contents: Mapping[str, str]) -> dict[str, set[str]]:
        """Return the names of the secrets in each text that has some."""
        return {name: found for name, text in contents.items() if (found := self.find(text))}

    def find_in_files(self, folders: Iterable[Path]) -> dict[str, set[str]]:
        """Return the names of the secrets in each file below the folders, but for those that exist to hold them."""
        leaks: dict[str, set[str]] = {}
        for path in (path for folder in folders for path in folder.rglob("*")):
            with contextlib.suppress(OSError):  # removed meanwhile, or a socket
                if path.is_file() and not is_holder(path) and (found := self.find(path.read_bytes())):
                    leaks[str(path)] = found
        return leaks


@functools.cache
def forms_of(secret: str) -> frozenset[bytes]:
    """Return a secret as it is, and the parts of its base64 that are the same whatever surrounds it."""
    data = secret.encode()
    encoded = {base64.b64encode(b"\0" * before + data)[4 if before else 0 :] for before in range(3)}
    return frozenset([data, *(form.rstrip(b"=")[:-2] for form in encoded)])


@dataclass
class ProcessView:
    """One process as other users of the machine see it, and its environment as its own user does."""

    name: str
    command: str
    environment: str


def look_at_all() -> dict[int, str]:
    """Return the command line of every process of this machine."""
    found = psutil.process_iter(["cmdline"])
    return {process.pid: " ".join(process.info["cmdline"] or ()) for process in found}


def look_at(service: Service) -> list[ProcessView]:
    """Return the processes of a server of a stack, drivers and workers among them."""
    root = psutil.Process(service._process._guard.pid)  # type: ignore[union-attr]  # it runs
    views = []
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            environment = "\n".join(f"{name}={value}" for name, value in process.environ().items())
            views.append(ProcessView(process.name(), " ".join(process.cmdline()), environment))
    return views
