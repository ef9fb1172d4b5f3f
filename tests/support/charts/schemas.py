"""Checks of rendered objects against the schemas of Kubernetes and of the operators' own kinds, without a cluster.

Unknown fields are refused. Schemas of Kubernetes come with ``kubernetes-validate``, by version; those of operators are
in ``tests/deploy/schemas``: they allow only the fields that the chart uses.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions, major_minor
from referencing import Registry, Resource

from support.charts.rendering import CHART, Object

FOLDER = Path(__file__).parents[2] / "deploy" / "schemas"

NEWEST = major_minor(all_versions()[-1])
"""The newest Kubernetes whose schemas are installed, for example ``1.37``."""

BUILT_IN = re.compile(r"^(v1|apps/v1|batch/v1|autoscaling/v2|policy/v1|(rbac\.authorization|networking)\.k8s\.io/v1)$")
"""The API versions of Kubernetes itself that the chart may use; all are in every supported Kubernetes."""


def find_oldest() -> str:
    """The oldest Kubernetes that the chart installs on, from ``kubeVersion`` of Chart.yaml, for example ``1.30``."""
    wanted = str(yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["kubeVersion"])
    found = re.match(r">=(\d+\.\d+)\.0-0$", wanted)
    assert found is not None, f"kubeVersion {wanted} does not name the oldest version as >=1.30.0-0"
    return found.group(1)


OLDEST = find_oldest()
VERSIONS = (OLDEST, NEWEST)


def find_problems(objects: Iterable[Object], version: str) -> list[str]:
    """What the schemas refuse, one line per fault: ``Deployment engine-api: spec.replicas: ... ``."""
    found = []
    for each in objects:
        name = f"{each.get('kind')} {(each.get('metadata') or {}).get('name')}"
        errors = _find_validator(str(each.get("apiVersion")), str(each.get("kind")), version).iter_errors(each)
        found += [f"{name}: {'.'.join(str(part) for part in error.absolute_path)}: {_say(error)}" for error in errors]
    return found


def _say(error: jsonschema.ValidationError) -> str:
    """The message of an error, or of the best of its alternatives."""
    best = jsonschema.exceptions.best_match([error])
    return str((best or error).message)[:500]


@functools.cache
def _find_validator(api_version: str, kind: str, version: str) -> Any:
    if BUILT_IN.match(api_version):
        # networking.k8s.io/v1 -> networking-v1
        short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
        path = _folder(version) / f"{kind.lower()}-{short}.json"
        assert path.is_file(), f"Kubernetes {version} has no {kind} in {api_version}"
        schema = json.loads(path.read_text(encoding="utf-8"))
    else:
        path = FOLDER / f"{kind.lower()}-{api_version.replace('/', '-')}.yaml"
        assert path.is_file(), f"{kind} of {api_version} has no schema in tests/deploy/schemas"
        schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, registry=_find_registry(version))


@functools.cache
def _find_registry(version: str) -> Registry[Any]:
    definitions = json.loads((_folder(version) / "_definitions.json").read_text(encoding="utf-8"))
    return Resource.from_contents(definitions) @ Registry()


def _folder(version: str) -> Any:
    folder = importlib.resources.files(kubernetes_validate) / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    assert folder.is_dir(), f"kubernetes-validate has no schemas of Kubernetes {version}"
    return folder
