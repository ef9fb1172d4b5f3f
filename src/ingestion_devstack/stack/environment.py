"""Settings as environment variables, and back: the stack's servers and other shells get the same configuration."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from ingestion_devstack.kubernetes.config import write_private
from ingestion_engine.runtime.settings import PREFIX, Settings, load_settings

MARK = f"{PREFIX}STACK_VARIABLES"
"""Variable of ``stack.env`` that lists those of the stack's own servers, each with the beginning of its value's hash. A
shell that has loaded the file keeps them after the stack has stopped."""


def load_own_settings() -> Settings:
    """Return the settings of the user, without what an earlier stack's file has put into this shell.

    Raises:
        SettingsError: as ``load_settings``.
    """
    return load_settings(ignored=find_stack_variables(os.environ))


def find_stack_variables(environment: Mapping[str, str]) -> set[str]:
    """Return the variables that still have the value of an embedded server; one that was set since is not. Pure."""
    marked = set(environment.get(MARK, "").split(","))
    return {name for name, value in environment.items() if f"{name}:{_short_hash(value)}" in marked}


def _short_hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:12]


def settings_to_env(settings: Settings) -> dict[str, str]:
    """Return every ``INGEST_*`` variable that differs from its default, secrets in clear text. Pure."""
    env: dict[str, str] = {}
    defaults = Settings.model_construct()
    for name in Settings.model_fields:
        value, default = getattr(settings, name), getattr(defaults, name)
        if isinstance(value, BaseModel):
            for field in type(value).model_fields:
                inner = getattr(value, field)
                if inner != getattr(default, field):
                    env[f"{PREFIX}{name}__{field}".upper()] = _render(inner)
        elif value != default:
            env[f"{PREFIX}{name}".upper()] = _render(value)
    return env


def apply_variables(settings: Settings, variables: Mapping[str, str]) -> Settings:
    """Return the settings with the values of these ``INGEST_*`` variables. Pure."""
    groups: dict[str, dict[str, str]] = {}
    plain: dict[str, Any] = {}
    for variable, value in variables.items():
        name, _, field = variable.removeprefix(PREFIX).lower().partition("__")
        if field:
            groups.setdefault(name, {})[field] = value
        else:
            plain[name] = Path(value) if name == "data_dir" else value
    for name, values in groups.items():
        group: BaseModel = getattr(settings, name)
        plain[name] = type(group).model_validate({**_set_values(group), **values})
    return settings.model_copy(update=plain)


def write_stack_env(path: Path, env: Mapping[str, str], own: Collection[str]) -> None:
    """Write a file for ``set -a; . FILE``, readable by its owner only.

    Args:
        path: The file.
        env: Variables.
        own: Names of those that describe servers of the stack.
    """
    env = {**env, MARK: ",".join(f"{name}:{_short_hash(env[name])}" for name in sorted(own) if name in env)}
    lines = [
        "# Addresses and credentials of the running embedded stack. Load them with: set -a; . "
        + shlex.quote(str(path))
        + "; set +a"
    ]
    lines += [f"{name}={shlex.quote(value)}" for name, value in sorted(env.items())]
    write_private(path, "\n".join([*lines, ""]).encode())


def _set_values(group: BaseModel) -> dict[str, Any]:
    return {name: getattr(group, name) for name in group.model_fields_set}


def _render(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple) and value and isinstance(value[0], dict):
        return json.dumps(value)
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return "" if value is None else str(value)
