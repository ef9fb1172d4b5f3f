"""What distributions require, from the metadata of what is installed here."""

from __future__ import annotations

import importlib.metadata
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PRODUCT = "ingestion-engine"


def read_wheel_requires(wheel: Path) -> tuple[str, ...]:
    """The requirements of a wheel, with the markers of its extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    return tuple(line.partition(": ")[2] for line in text.splitlines() if line.startswith("Requires-Dist: "))


def read_requires(root: Path) -> tuple[str, ...]:
    """The requirements of ``pyproject.toml``, with the markers of its extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = list(project["dependencies"])
    for extra, texts in project["optional-dependencies"].items():
        for text in texts:
            requirement = Requirement(text)
            other = f"({requirement.marker}) and " if requirement.marker else ""
            requirement.marker = None
            found.append(f"{requirement} ; {other}extra == '{extra}'")
    return tuple(found)


def find_dependencies(
    requires: Sequence[str], extras: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> set[str]:
    """Return the names of the distributions that pip would install for requirements and extras of the product.

    Args:
        requires: Requirements of the product, or of anything else.
        extras: Its extras.
        environment: Markers of another platform than this one.
    """
    seen: set[tuple[str, str]] = set()

    def walk(name: str, extra: str) -> None:
        if (name, extra) in seen:
            return
        seen.add((name, extra))
        for requirement in map(Requirement, requires if name == PRODUCT else importlib.metadata.requires(name) or []):
            marker = requirement.marker
            if marker is None or marker.evaluate({**(environment or {}), "extra": extra}):
                for inner in ("", *requirement.extras):
                    walk(canonicalize_name(requirement.name), inner)

    for extra in ("", *extras):
        walk(PRODUCT, extra)
    return {name for name, _ in seen} - {PRODUCT}
