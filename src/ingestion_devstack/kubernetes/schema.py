"""The structural schema of SparkApplication v1beta2: pruning of unknown fields, and validation as in an API server.

The shape comes from the pydantic models of `kubeflow-spark-api`. They carry no ranges or enumerations; those stand
here, read from the operator's CRD (charts/spark-operator-chart/crds, version 2.4). With them both agree field by field;
the models only name more fields in the metadata of a volume claim template, and lack a few of the newest pod fields.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from ingestion_devstack.kubernetes.errors import Cause

Schema = dict[str, Any]
"""A structural OpenAPI v3 schema; shared parts are the same object."""

_QUANTITY: Final = re.compile(r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9.]+))?$")

_LIMITS: Final[dict[str, Schema]] = {
    "spec.driver.cores": {"minimum": 1},
    "spec.executor.cores": {"minimum": 1},
    "spec.executor.instances": {"minimum": 1},
    "spec.mode": {"enum": ["cluster", "client"]},
    "spec.monitoring.prometheus.port": {"minimum": 1024, "maximum": 49151},
    "spec.pythonVersion": {"enum": ["2", "3"]},
    "spec.restartPolicy.onFailureRetries": {"minimum": 0},
    "spec.restartPolicy.onFailureRetryInterval": {"minimum": 1},
    "spec.restartPolicy.onSubmissionFailureRetries": {"minimum": 0},
    "spec.restartPolicy.onSubmissionFailureRetryInterval": {"minimum": 1},
    "spec.restartPolicy.type": {"enum": ["Never", "Always", "OnFailure"]},
    "spec.type": {"enum": ["Java", "Python", "Scala", "R"]},
}
_FREE_FORM: Final = ("spec.driver.template", "spec.executor.template")
"""Pod templates: the CRD keeps whatever is in them."""


@cache
def application_schema() -> Schema:
    """The schema of a SparkApplication. The first call costs about a second: it imports some 300 models."""
    from kubeflow_spark_api.models.spark_v1beta2_spark_application import SparkV1beta2SparkApplication

    schema = _model_schema(SparkV1beta2SparkApplication)
    for path, limits in _LIMITS.items():
        _amend(schema, path.split("."), limits)
    for path in _FREE_FORM:
        _amend(schema, path.split("."), {"properties": {}, "x-kubernetes-preserve-unknown-fields": True})
    # In the operator's main branch, not yet in the models.
    schema["properties"]["spec"]["properties"].setdefault("driverPodDisruptionBudget", {"type": "boolean"})
    return schema


def _amend(schema: Schema, path: list[str], change: Schema) -> None:
    """Put a changed copy at `path`; parts that other fields share stay as they are."""
    name, *rest = path
    copy = dict(schema["properties"][name])
    schema["properties"] = {**schema["properties"], name: copy}
    if rest:
        _amend(copy, rest, change)
    else:
        copy.update(change)


@cache
def _model_schema(model: type[BaseModel]) -> Schema:
    if model.__name__.endswith(("ResourceQuantity", "IntOrString")):
        pattern = {"pattern": _QUANTITY.pattern} if model.__name__.endswith("Quantity") else {}
        return {"x-kubernetes-int-or-string": True, **pattern}
    properties, required = {}, []
    for name, field in model.model_fields.items():
        alias = field.alias or name
        schema = _type_schema(field.annotation)
        described = model.__name__.startswith("SparkV1beta2") and field.description
        properties[alias] = {**schema, "description": field.description} if described else schema
        if field.is_required():
            required.append(alias)
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _type_schema(annotation: Any) -> Schema:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        present = [argument for argument in arguments if argument is not types.NoneType]
        return _type_schema(present[0])
    if origin is typing.Annotated:
        return _type_schema(arguments[0])
    if origin is list:
        return {"type": "array", "items": _type_schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(arguments[1])}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model_schema(annotation)
    if annotation is datetime:
        return {"type": "string", "format": "date-time", "nullable": True}
    names = {str: "string", int: "integer", bool: "boolean", float: "number"}
    return {"type": names[annotation]} if annotation in names else {"x-kubernetes-preserve-unknown-fields": True}


def prune(value: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """Remove every unknown field from `value` in place; yield the path of each."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties")
        for name in list(value):
            here = f"{path}.{name}" if path else name
            if name in properties:
                yield from prune(value[name], properties[name], here)
            elif others is not None:
                yield from prune(value[name], others, here)
            elif schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
                del value[name]
                yield here
    elif isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from prune(item, schema["items"], f"{path}[{index}]")


def validate(value: Any, schema: Schema, path: str = "") -> Iterator[Cause]:
    """Yield everything in `value` that the schema forbids, in the order of the fields."""
    if value is None and schema.get("nullable"):
        return
    expected = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        yield from _validate_int_or_string(value, schema, path)
        return
    if expected is None:
        return
    if not _has_type(value, expected):
        shown = _quote(value) if not isinstance(value, dict | list) else '"' + _type_name(value) + '"'
        message = f"Invalid value: {shown}: {path} in body must be of type {expected}: {_quote(_type_name(value))}"
        yield Cause(path, "FieldValueTypeInvalid", message)
        return
    if expected == "object":
        yield from _validate_object(value, schema, path)
    elif expected == "array":
        for index, item in enumerate(value):
            yield from validate(item, schema["items"], f"{path}[{index}]")
    else:
        yield from _validate_limits(value, schema, path)


def _validate_object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Cause]:
    prefix = f"{path}." if path else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield Cause(prefix + name, "FieldValueRequired", "Required value")
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, item in value.items():
        inner = properties.get(name, others)
        if inner is not None:
            yield from validate(item, inner, prefix + name)


def _validate_limits(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(_quote(item) for item in schema["enum"])
        message = f"Unsupported value: {_quote(value)}: supported values: {supported}"
        yield Cause(path, "FieldValueNotSupported", message)
    if "minimum" in schema and value < schema["minimum"]:
        message = f"Invalid value: {value}: {path} in body should be greater than or equal to {schema['minimum']}"
        yield Cause(path, "FieldValueInvalid", message)
    if "maximum" in schema and value > schema["maximum"]:
        message = f"Invalid value: {value}: {path} in body should be less than or equal to {schema['maximum']}"
        yield Cause(path, "FieldValueInvalid", message)


def _validate_int_or_string(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if isinstance(value, bool) or not isinstance(value, int | str):
        message = f"Invalid value: {_quote(value)}: {path} in body must be of type integer or string"
        yield Cause(path, "FieldValueTypeInvalid", message)
    elif "pattern" in schema and not _QUANTITY.match(str(value)):
        message = f"Invalid value: {_quote(value)}: {path} in body should match '{schema['pattern']}'"
        yield Cause(path, "FieldValueInvalid", message)


def _has_type(value: Any, expected: str) -> bool:
    if isinstance(value, bool):
        return expected == "boolean"
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float}
    return expected in kinds and isinstance(value, kinds[expected])


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")


def _quote(value: Any) -> str:
    if value is None:
        return '"null"'
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else f'"{value}"'
