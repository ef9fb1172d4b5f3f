"""Build steps of Dockerfiles without a container engine.

A stage is a folder: the paths that it writes (``/opt/ingest``, ``/dist`` ...) are below it, and its RUN lines run in a
shell of this machine with these paths replaced. Base images do not exist here, so the Python is this interpreter, and
what a base image brings (Ray, Spark) comes from the test.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "deploy" / "images"
_OWN_PATHS = re.compile(r"(?<![\w./-])/(?=(?:build|dist|src|opt|mnt|var|home)(?:/|\b))")
"""Starts of absolute paths within an image that stages write."""


@dataclass(frozen=True)
class Instruction:
    """An instruction of a Dockerfile, its continuation lines joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


@dataclass
class Stage:
    """From FROM to the next FROM."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def texts(self, name: str) -> list[str]:
        """The texts of all instructions of this name."""
        return [instruction.text for instruction in self.instructions if instruction.name == name]

    def environment(self) -> dict[str, str]:
        """The variables of ENV, without references to others."""
        words = [word for text in self.texts("ENV") for word in shlex.split(text)]
        return {name: value for name, _, value in (word.partition("=") for word in words) if "$" not in value}


@dataclass(frozen=True)
class Dockerfile:
    """A parsed Dockerfile; the arguments before the first FROM have their defaults."""

    arguments: dict[str, str]
    stages: list[Stage]

    @classmethod
    def read(cls, path: Path) -> Dockerfile:
        arguments: dict[str, str] = {}
        stages: list[Stage] = []
        for instruction in _read_instructions(path.read_text(encoding="utf-8")):
            if instruction.name == "FROM":
                words = [_expand(word, arguments) for word in instruction.words]
                stages.append(Stage(words[0], words[2] if len(words) > 2 else ""))
            elif not stages:
                name, _, value = instruction.text.partition("=")
                arguments[name] = value
            else:
                stages[-1].instructions.append(instruction)
        return cls(arguments, stages)

    @property
    def final(self) -> Stage:
        """The stage that becomes the image."""
        return self.stages[-1]

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def _read_instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield Instruction(name, re.sub(r"\s+", " ", rest.strip()))


def _expand(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], match[0]), text)


class Build:
    """The folders of the stages of one Dockerfile."""

    def __init__(self, dockerfile: Dockerfile, folder: Path) -> None:
        self.dockerfile = dockerfile
        self.folder = folder
        self.runs: list[str] = []
        """Commands that ran, as the Dockerfile has them."""

    def path(self, stage: str, path: str) -> Path:
        """The place on this machine of a path of a stage; the last stage has the name ''."""
        return self.folder / (stage or "final") / path.lstrip("/")

    def run(self, name: str, *, adapt: Callable[[str], str] = lambda command: command) -> None:
        """Run the COPY and RUN instructions of a stage. ``adapt`` changes commands that need the base image."""
        stage = self.dockerfile.stage(name)
        directory = self.path(name, "/")
        directory.mkdir(parents=True, exist_ok=True)
        for instruction in stage.instructions:
            if instruction.name == "WORKDIR":
                directory = self.path(name, instruction.text)
                directory.mkdir(parents=True, exist_ok=True)
            elif instruction.name == "COPY":
                self._copy(name, directory, instruction.words)
            elif instruction.name == "RUN":
                self._run(name, directory, instruction.text, adapt)

    def _copy(self, stage: str, directory: Path, words: list[str]) -> None:
        *sources, target = [word for word in words if not word.startswith("--")]
        origin = next((word.partition("=")[2] for word in words if word.startswith("--from=")), None)
        if origin == "uv":
            return  # the uv of this environment, which has the same version
        place = self.path(stage, target) if target.startswith("/") else directory / target
        for source in sources:
            path = ROOT / source if origin is None else self.path(origin, source)
            assert origin is not None or is_in_context(source), f"{source} is not in the build context"
            if path.is_dir():
                shutil.copytree(path, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into = place / path.name if target.endswith("/") or place.is_dir() else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, into)

    def _run(self, stage: str, directory: Path, text: str, adapt: Callable[[str], str]) -> None:
        mounts = re.findall(r"--mount=(\S+)", text)
        command = re.sub(r"--mount=\S+\s+", "", text)
        for mount in mounts:
            self._mount(stage, dict(part.partition("=")[::2] for part in mount.split(",")))
        self.runs.append(command)
        # The packages come from uv's cache after `make setup`.
        local = adapt(command).replace(" --no-cache ", " ")
        local = _OWN_PATHS.sub(f"{self.path(stage, '/')}/", local)
        uv = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        environment |= {"PATH": uv, "UV_PYTHON": sys.executable, "UV_LINK_MODE": "hardlink", "UV_NO_PROGRESS": "1"}
        environment.setdefault("UV_SYSTEM_CERTS", "1")  # as pip, which uses the authorities of the system
        done = subprocess.run(
            ["sh", "-ec", local],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{local}\n{done.stdout}\n{done.stderr}"

    def _mount(self, stage: str, mount: dict[str, str]) -> None:
        target = self.path(stage, mount["target"])
        target.parent.mkdir(parents=True, exist_ok=True)
        origin = mount.get("from")
        if origin == "uv":
            target.symlink_to(Path(sys.executable).parent / "uv")
        else:
            assert origin is not None or is_in_context(mount["source"])
            target.symlink_to(ROOT / mount["source"] if origin is None else self.path(origin, mount["source"]))


def is_in_context(path: str) -> bool:
    """Whether ``.dockerignore`` lets a file or folder into the build context."""
    is_in = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            parents = [path, *(str(parent) for parent in Path(path).parents)]
            if any(fnmatch.fnmatch(name, pattern) for name in parents):
                is_in = line.startswith("!")
    return is_in
