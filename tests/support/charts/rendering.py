"""Objects of the chart for given values, as ``helm template`` makes them, and Helm's own lint."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parents[3] / "deploy" / "charts" / "ingestion-engine"
EXAMPLES = tuple(sorted((CHART / "examples").glob("*.yaml")))

Object = dict[str, Any]


class _Loader(yaml.CSafeLoader):
    """Reads YAML, and refuses a key that occurs twice: Helm lets it pass, and Kubernetes keeps the last one."""


def _make_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in made:
            raise AssertionError(f"the key {key!r} occurs twice, {key_node.start_mark}")
        made[key] = loader.construct_object(value_node, deep=True)
    return made


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _make_mapping)


@functools.cache
def load_chart() -> helm_python.Chart:
    """The chart of this checkout, read once."""
    return helm_python.Chart.load(CHART)


def read_values(path: Path) -> dict[str, Any]:
    """The values of a file."""
    values: dict[str, Any] = read_yaml(path.read_text(encoding="utf-8"))[0]
    return values


def read_yaml(text: str) -> list[Any]:
    """The documents of a text that are not empty."""
    documents = yaml.load_all(text, Loader=_Loader)  # a SafeLoader
    return [document for document in documents if document is not None]


def merge(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Value files merged as Helm merges them: the later ones win, lists are replaced."""
    merged: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            former = merged.get(key)
            both = isinstance(value, Mapping) and isinstance(former, Mapping)
            merged[key] = merge(former, value) if both else copy.deepcopy(value)
    return merged


def render_files(
    values: Mapping[str, Any], *, release: str = "engine", namespace: str = "ingest", upgrade: bool = False
) -> dict[str, str]:
    """Texts of the rendered templates, by their names. Raises ``helm_python.HelmError`` for refused values."""
    return load_chart().render(
        dict(values),
        name=release,
        namespace=namespace,
        is_upgrade=upgrade,
        is_install=not upgrade,
        revision=2 if upgrade else 1,
    )


def render(
    values: Mapping[str, Any], *, release: str = "engine", namespace: str = "ingest", upgrade: bool = False
) -> list[Object]:
    """All objects of a release, hooks too, but not the notes. Raises ``helm_python.HelmError`` for refused values."""
    files = render_files(values, release=release, namespace=namespace, upgrade=upgrade)
    return [
        document
        for name, text in sorted(files.items())
        if not name.endswith("NOTES.txt")
        for document in read_yaml(text)
    ]


def find_refusal(values: Mapping[str, Any]) -> str:
    """What Helm says about values that the chart refuses. Raises AssertionError when it does not refuse them."""
    try:
        render_files(values)
    except helm_python.HelmError as error:
        return str(error)
    raise AssertionError("the chart accepts these values")


def find_lint(values: Mapping[str, Any], kubernetes: str) -> list[str]:
    """Warnings and errors of ``helm lint --strict``."""
    report = helm_python.lint(CHART, dict(values), strict=True, namespace="ingest", kube_version=f"v{kubernetes}.0")
    found = [str(message["error"]) for message in report["messages"] or () if message["severity"] > 1]
    return found + [str(error) for error in report["errors"] or ()]
