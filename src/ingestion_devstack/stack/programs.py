"""Programs of this machine that the embedded stack runs in place of its own servers: which ones, and why not others.

A program is found on ``PATH``, or named by ``INGEST_STACK__MINIO``, ``INGEST_STACK__OLLAMA``, ``INGEST_STACK__QDRANT``
or ``INGEST_STACK__WEAVIATE``: its path, its name on ``PATH``, or ``off``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingestion_devstack.stack.service import StackError
from ingestion_engine.runtime.settings import PREFIX

PROGRAMS: Final = ("minio", "ollama", "qdrant", "weaviate")
"""Names of the programs on ``PATH``."""

VERSION_TIMEOUT_S: Final = 20.0
"""Time limit of ``--version``; a program of 100 MB that is read from a slow disk takes seconds."""

_NUMBER: Final = re.compile(r"\d+")
_VERSIONS: Final = {
    "minio": re.compile(r"minio version (?:RELEASE\.)?(\S+)"),
    "ollama": re.compile(r"version is (\S+)"),
    "qdrant": re.compile(r"qdrant (\d\S*)"),
}
"""How the programs say their versions; Weaviate has no option for it, and is asked when it runs."""

_OLDEST: Final = {
    "minio": ("2025-09-07", "conditional writes to objects that are gone (minio/minio issue 21526)"),
    "ollama": ("0.3.0", "the request for the embeddings of several texts (/api/embed)"),
    "qdrant": ("1.9.0", "the request whether a collection exists"),
}
"""The oldest versions that jobs work with, and what older ones lack."""

_OPEN_TO_OTHERS: Final = "its gRPC and cluster ports are open to other machines"


@dataclass(frozen=True, slots=True)
class Program:
    """A program of this machine; it runs in place of the stack's own server."""

    path: Path
    version: str
    """As it says itself; empty when it does not."""
    is_named: bool
    """True when a variable names it; False when it was found on ``PATH``."""

    def __str__(self) -> str:
        """What the table of systems shows: version and path."""
        return f"real server{f', version {self.version}' if self.version else ''}: {self.path}"


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs to run, and why others that were found are not, by name."""

    used: Mapping[str, Program]
    passed_over: Mapping[str, str]


NO_PROGRAMS: Final = Programs({}, {})


def find_programs(environment: Mapping[str, str], model: str) -> Programs:
    """Return the programs that the stack runs. Starts each that it finds once, with ``--version``.

    One that is found but cannot be used is passed over, unless a variable names it.

    Args:
        environment: The variables that name programs or switch them off, ``PATH``, and ``OLLAMA_MODELS``.
        model: The embedding model. An Ollama on ``PATH`` that does not have it is passed over.

    Raises:
        StackError: a program that a variable names does not exist or cannot be used.
    """
    used: dict[str, Program] = {}
    passed_over: dict[str, str] = {}
    for name in PROGRAMS:
        variable = f"{PREFIX}STACK__{name.upper()}"
        given = environment.get(variable, "").strip()
        found = None if given.lower() == "off" else shutil.which(given or name, path=environment.get("PATH"))
        if found is None:
            if given and given.lower() != "off":
                raise StackError(f"{variable}: {given!r} is not a program. Use its path, its name on PATH, or off.")
            continue
        path = Path(found).absolute()
        version = _read_version(name, path) if name in _VERSIONS else ""
        fault = _find_fault(name, version)
        if not fault and not given:
            fault = _find_doubt(name, environment, model)
        if fault and given:
            raise StackError(f"{variable}: {path} cannot be used: {fault}. Use another one, or off.")
        if fault:
            passed_over[name] = f"not {path}: {fault}"
        else:
            used[name] = Program(path, version or "", bool(given))
    return Programs(used, passed_over)


def find_models(environment: Mapping[str, str], own: Path, model: str) -> Path:
    """Return Ollama's directory of models: ``OLLAMA_MODELS``, the user's if it has the model, else the stack's own."""
    given = environment.get("OLLAMA_MODELS")
    users = Path(given) if given else Path.home() / ".ollama" / "models"
    return users if given or has_model(users, model) else own


def has_model(models: Path, model: str) -> bool:
    """Return whether Ollama has pulled a model into a directory. A model is ``[[HOST/]NAMESPACE/]NAME[:TAG]``."""
    name, _, tag = model.partition(":")
    parts = name.split("/")
    defaults = ["registry.ollama.ai", "library"]
    return models.joinpath("manifests", *defaults[: 3 - len(parts)], *parts, tag or "latest").is_file()


def _read_version(name: str, path: Path) -> str | None:
    """Return the version that a program says; None when it says none, so that it is another program."""
    env = {**os.environ, "OLLAMA_HOST": "127.0.0.1:1"}  # no server: the program's version, not that of a server
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
            check=False,
            env=env,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSIONS[name].search(done.stdout + done.stderr)
    return found.group(1) if found else None


def _find_fault(name: str, version: str | None) -> str:
    """Return why a program cannot be used; empty when it can. Pure."""
    if version is None:
        return f"it does not say that it is {name}"
    oldest, lacking = _OLDEST.get(name, ("", ""))
    said, least = (tuple(map(int, _NUMBER.findall(text)[:3])) for text in (version, oldest))
    # A version without numbers is a build of its own.
    return f"version {version} is older than {oldest} and lacks {lacking}" if said and said < least else ""


def _find_doubt(name: str, environment: Mapping[str, str], model: str) -> str:
    """Return why a program that nobody has named is not used; empty when it is."""
    variable = f"{PREFIX}STACK__{name.upper()}"
    if name == "weaviate":
        return f"{_OPEN_TO_OTHERS}; set {variable} to use it"
    if name == "ollama":
        given = environment.get("OLLAMA_MODELS")
        if not has_model(Path(given) if given else Path.home() / ".ollama" / "models", model):
            return f"it does not have the model {model}; pull it with `ollama pull {model}`, or set {variable}"
    return ""
