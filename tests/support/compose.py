"""``deploy/compose.yaml`` as data, with the values that Compose would put in, and its services outside containers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FILE = DEPLOY / "compose.yaml"
EXAMPLE = DEPLOY / "compose" / "env.example"

_VALUE = re.compile(r"\$(?:\{(?P<name>\w+)(?P<colon>:?)-?(?P<default>[^{}]*)\}|(?P<dollar>\$))")


def read_example(*, commented: bool = False) -> dict[str, str]:
    """The variables of ``env.example``; also those that are commented out, which show a value."""
    pattern = r"^(?:# )?([A-Z]\w+)=(\S*)" if commented else r"^([A-Z]\w+)=(\S*)"
    return dict(re.findall(pattern, EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))


def list_variables() -> dict[str, str]:
    """The variables that the file refers to, with their defaults."""
    text = FILE.read_text(encoding="utf-8")
    return {match["name"]: str(match["default"]) for match in _VALUE.finditer(text) if match["name"]}


def read_compose(values: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The file, with merged anchors and with these values in the place of its variables."""
    given = values or {}

    def replace(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        value = given.get(match["name"], match["default"])
        return value or (match["default"] if match["colon"] else value)

    def put_in(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: put_in(value) for key, value in node.items()}
        if isinstance(node, list):
            return [put_in(value) for value in node]
        return _VALUE.sub(replace, node) if isinstance(node, str) else node

    found: dict[str, Any] = put_in(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    return found


def list_secrets(service: Mapping[str, Any]) -> dict[str, str]:
    """File names below ``/run/secrets`` of a service, and the names of the secrets in them."""
    secrets = [item if isinstance(item, dict) else {"source": item} for item in service.get("secrets", ())]
    return {str(item.get("target", item["source"])): str(item["source"]) for item in secrets}
