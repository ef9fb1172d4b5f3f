"""Writes values.schema.json of the Helm chart: `make docs`.

`config` follows from the settings: names, types, limits and docstrings, without secrets and without what the chart sets
itself. Everything else follows from values.yaml: its names and the types of its defaults, narrowed by ``NARROWED``.
JSON Schema draft 7, because Helm 3 reads no later one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ingestion_engine.runtime.settings import Settings

CHART: Final = Path(__file__).resolve().parents[1] / "deploy" / "charts" / "ingestion-engine"

SET_BY_THE_CHART: Final = frozenset(
    {
        *(
            "api.host",
            "api.port",
            "api.keys_file",
            "api.allow_anonymous",
            "api.database_keys",
            "gateway.host",
            "gateway.port",
            "tls.ca_file",
        ),
        *("spark.namespace", "spark.image", "spark.service_account", "spark.secret_name", "spark.labels"),
        *("spark.pod_template", "dispatch.enabled", "database.migrate", "data_dir"),
        # It holds a password.
        "database_url",
    }
)
"""Settings that are no names under `config`: other values of the chart make them."""

OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
OBJECTS: Final[Mapping[str, Any]] = {"type": "array", "items": OBJECT}
NAMED: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "object", "required": ["name"]}}
STRINGS: Final[Mapping[str, Any]] = {"type": "object", "additionalProperties": {"type": "string"}}
NAME: Final[Mapping[str, Any]] = {"type": "string", "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$"}
PEERS: Final[Mapping[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"podSelector": OBJECT, "namespaceSelector": OBJECT, "ipBlock": OBJECT},
        "additionalProperties": False,
        "minProperties": 1,
    },
}
PORT: Final[Mapping[str, Any]] = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT: Final[Mapping[str, Any]] = {"type": "integer", "minimum": 0}
SHARE: Final[Mapping[str, Any]] = {"type": ["integer", "string", "null"], "minimum": 0, "pattern": "^[0-9]+%?$"}
QUANTITY: Final[Mapping[str, Any]] = {"type": ["string", "integer"]}
DURATION: Final[Mapping[str, Any]] = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
URLS: Final[Mapping[str, Any]] = {"type": ["array", "string"], "items": {"type": "string"}}

NARROWED: Final[Mapping[str, Mapping[str, Any]]] = {
    **dict.fromkeys(("commonLabels", "commonAnnotations", "podLabels", "podAnnotations", "nodeSelector"), STRINGS),
    **dict.fromkeys(("annotations", "labels"), STRINGS),
    **dict.fromkeys(("resources", "strategy", "podSecurityContext", "securityContext", "timeouts"), OBJECT),
    **dict.fromkeys(("affinity", "behavior", "gcsFaultToleranceOptions", "podTemplate"), OBJECT),
    **dict.fromkeys(("from", "to", "operatorFrom"), PEERS),
    **dict.fromkeys(("minAvailable", "maxUnavailable"), SHARE),
    **dict.fromkeys(("interval", "scrapeTimeout"), DURATION),
    **dict.fromkeys(("minReplicas", "maxReplicas", "backoffLimit", "terminationGracePeriodSeconds"), COUNT),
    "replicas": {"type": ["integer", "null"], "minimum": 0},
    "port": PORT,
    "ports": {"type": "array", "items": PORT},
    "tmpSize": QUANTITY,
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "hostnames": {"type": "array", "items": {"type": "string"}},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "mode": {"enum": ["hook", "job", "start"]},
    "type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    **dict.fromkeys(("nameOverride", "fullnameOverride"), NAME),
    "mountPath": {"type": "string", "pattern": "^/"},
    "targetCPUUtilizationPercentage": {"type": "integer", "minimum": 1, "maximum": 1000},
    "hosts": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"host": {"type": "string", "minLength": 1}, "path": {"type": "string", "pattern": "^/"}},
            "required": ["host"],
            "additionalProperties": False,
        },
    },
    **dict.fromkeys(("imagePullSecrets", "extraEnv", "extraVolumes", "extraVolumeMounts"), NAMED),
    **dict.fromkeys(("tolerations", "topologySpreadConstraints", "tls", "parentRefs", "filters", "extra"), OBJECTS),
}
"""Schemas by the name of a value, wherever it is. A map at a name of a list (`tls` at the top) keeps its own names."""

OPTIONAL: Final[Mapping[str, Mapping[str, Any]]] = {"podDisruptionBudget": {"minAvailable": SHARE}}
"""Names that values.yaml leaves out, because setting them means to unset another one."""


def make_schema(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the values of a chart with these defaults. Pure."""
    schema = _describe_map(defaults)
    schema["properties"]["config"] = make_config_schema()
    # Helm adds it to the values of a chart that is part of another one.
    schema["properties"]["global"] = OBJECT
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart ingestion-engine",
        **schema,
    }


def make_config_schema() -> dict[str, Any]:
    """Return the schema of `config`: the settings that are neither secrets nor set by the chart. Pure."""
    properties: dict[str, Any] = {}
    for name, info in Settings.model_fields.items():
        group = info.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            fields = {
                field: _describe_setting(group, field, inner)
                for field, inner in group.model_fields.items()
                if _is_free(f"{name}.{field}", inner)
            }
            if fields:
                about = " ".join((group.__doc__ or "").split())
                properties[name] = {"description": about, **_make_closed(fields)}
        elif _is_free(name, info):
            properties[name] = _describe_setting(Settings, name, info)
    about = "Settings by their own names, without INGEST_ (docs/operations.md). Secrets belong into existingSecret."
    return {"description": about, **_make_closed(properties)}


def _is_free(name: str, info: FieldInfo) -> bool:
    return name not in SET_BY_THE_CHART and "SecretStr" not in str(info.annotation) and info.annotation is not SecretStr


def _describe_setting(model: type[BaseModel], name: str, info: FieldInfo) -> dict[str, Any]:
    """Return the schema of one setting; null means unset, whatever its type. Pure."""
    given = model.model_json_schema()["properties"][name]
    kinds = given.get("anyOf", [given])
    made: dict[str, Any] = {}
    for kind in kinds:
        if kind.get("type") == "array":
            inner = kind.get("items", {}).get("type")
            made = {"type": ["array", "string"], "items": OBJECT} if inner == "object" else dict(URLS)
        elif kind.get("type") != "null":
            made = {key: value for key, value in kind.items() if key in _KEPT}
    if "enum" in made:
        made["enum"] = [*made["enum"], None]
    types = made.get("type", "string")
    made["type"] = [*([types] if isinstance(types, str) else types), "null"]
    return {"description": " ".join((info.description or "").split()).replace("``", "`"), **made}


_KEPT: Final = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern")


def _describe(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value and NARROWED.get(name, OBJECT).get("type") == "array":
        return _describe_map(value)
    if name in NARROWED:
        return dict(NARROWED[name])
    if isinstance(value, dict):
        return _describe_map(value, name)
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return dict(COUNT)
    if isinstance(value, str):
        return {"type": "string"}
    raise ValueError(f"{name}: describe it in NARROWED, its default {value!r} does not")


def _describe_map(values: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    return _make_closed({key: _describe(key, value) for key, value in values.items()} | dict(OPTIONAL.get(name, {})))


def _make_closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def render(chart: Path = CHART) -> str:
    """Return the text of values.schema.json for the chart's values.yaml."""
    defaults = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    return json.dumps(make_schema(defaults), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Rewrite the file."""
    (CHART / "values.schema.json").write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
