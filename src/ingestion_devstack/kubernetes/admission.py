"""Checks and defaults of a SparkApplication before it is stored, in the order of a real cluster.

1. Kubernetes drops unknown fields, or refuses them (400) with strict validation.
2. The operator's mutating webhook decodes the object and sets defaults. A wrong type is its 400, without a `reason`. It
   writes empty values for fields that are missing, so an application without `sparkVersion` or `executor`, or with a
   volume without a name, is accepted.
3. Kubernetes applies the schema of the operator's CRD (422).
4. The operator's validating webhook refuses names, keys of `sparkConf` and the like (403).

Types are those of the pydantic models of `kubeflow-spark-api`, made from the CRD; names follow Kubernetes 1.34
(k8s.io/apimachinery `pkg/util/validation`). Webhooks: Spark operator 2.5.2, `api/v1beta2/defaults.go`,
`internal/webhook/sparkapplication_validator.go` and `sparkconf_validator.go`, with the names of its chart. Compared
with a real API server and a real webhook. Not imitated: checks of ingresses, defaults taken from `sparkConf`, Go's
names of nested fields in messages about types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kubeflow_spark_api.models.spark_v1beta2_spark_application import SparkV1beta2SparkApplication
from pydantic import ValidationError

from ingestion_devstack.kubernetes.errors import ApiError, Cause, bad_request, denied_by_webhook, internal, invalid
from ingestion_devstack.kubernetes.http import SPARK_APPLICATIONS
from ingestion_devstack.kubernetes.store import Object

_KIND: Final = "sparkoperator-k8s-io-v1beta2-sparkapplication.sparkoperator.k8s.io"
MUTATING: Final = f"mutate-{_KIND}"
VALIDATING: Final = f"validate-{_KIND}"

_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NUMBER: Final = re.compile(r"\d+")
_SUBDOMAIN_RULE: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_SUBDOMAIN.pattern}')"
)
_DNS_1035_RULE: Final = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    f"'{_DNS_1035.pattern}')"
)
_ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "type": ("Java", "Python", "Scala", "R"),
    "mode": ("cluster", "client"),
    "restartPolicy.type": ("Never", "Always", "OnFailure"),
}
"""Enumerations of the CRD, in its order."""
_SMALLEST: Final = {
    "driver.cores": 1,
    "executor.cores": 1,
    "executor.instances": 1,
    "restartPolicy.onFailureRetries": 0,
    "restartPolicy.onFailureRetryInterval": 1,
    "restartPolicy.onSubmissionFailureRetries": 0,
    "restartPolicy.onSubmissionFailureRetryInterval": 1,
}
"""Minima of the CRD."""
_NAMED: Final = frozenset({"volumes", "env", "volumeMounts", "containers", "initContainers", "sidecars"})
"""Lists whose items have a name; Go writes an empty one where it is missing."""
_GO_TYPES: Final = {"int_type": "int32", "string_type": "string", "bool_type": "bool", "list_type": "slice"}
"""By pydantic's type of an error."""
_OLDEST_WITH_TEMPLATES: Final = (3, 0, 0)
_ACCOUNT: Final = "configure the service account via the CRD spec instead"
_CREDENTIAL: Final = "authentication credentials are managed by the operator"
_MANAGED: Final = "this value is managed by the operator"
_IMAGE: Final = "use the image field on the CRD instead"
_AUTHENTICATE: Final = "spark.kubernetes.authenticate."
DENIED_CONF: Final[dict[str, str]] = {
    f"{_AUTHENTICATE}driver.serviceAccountName": _ACCOUNT,
    f"{_AUTHENTICATE}executor.serviceAccountName": _ACCOUNT,
    **{
        f"{_AUTHENTICATE}{who}{what}": _CREDENTIAL
        for who in ("", "driver.", "executor.")
        for what in ("oauthTokenFile", "oauthToken")
    },
    "spark.master": _MANAGED,
    "spark.kubernetes.driver.master": _MANAGED,
    "spark.kubernetes.container.image": _IMAGE,
    "spark.kubernetes.driver.container.image": _IMAGE,
    "spark.kubernetes.executor.container.image": _IMAGE,
}
"""Keys of `sparkConf` that the operator refuses, with its reasons."""


def admit(app: Object, *, strict: bool, webhook: str | None = None) -> list[str]:
    """Validate an application, drop unknown fields and set defaults, in place; return warnings about dropped fields.

    Args:
        app: The application.
        strict: Refuse unknown fields.
        webhook: A fault of the operator's webhook: "absent" or "down".

    Raises:
        ApiError: 400 for unknown fields with `strict` and for wrong types, 422 by the schema, 403 by the operator, 500
            when its webhook is down.
    """
    app["spec"] = _decode_object(app.get("spec"), "SparkApplication.spec")
    for role in ("driver", "executor"):
        app["spec"][role] = _decode_object(app["spec"].get(role), f"SparkApplicationSpec.spec.{role}")
    app["spec"].setdefault("sparkVersion", "")
    app["spec"].setdefault("type", "Scala")
    _fill_names(app["spec"])
    main = app["spec"].get("mainApplicationFile")
    try:
        read = SparkV1beta2SparkApplication.from_dict(
            {**app, "spec": {**app["spec"], "mainApplicationFile": main or ""}}
        )
    except (TypeError, ValueError) as error:
        raise _cannot_decode(_describe(error)) from error
    assert read is not None, "the input is an object"
    unknown = [f'unknown field "{path}"' for path in _drop_unknown(app, read.to_dict(), "")]
    if unknown and strict:
        message = 'SparkApplication in version "v1beta2" cannot be handled as a SparkApplication: '
        raise bad_request(message + "strict decoding error: " + ", ".join(unknown))
    if webhook == "down":
        raise internal(
            f'failed calling webhook "{MUTATING}": failed to call webhook: Post "https://spark-operator-webhook-svc/'
            'mutate": dial tcp: connect: connection refused'
        )
    if webhook == "absent":  # then nobody sets defaults; the schema, which is stricter here, is not applied
        return unknown
    _set_defaults(app["spec"])
    causes = list(_check_schema(app))
    if causes:
        raise invalid(SPARK_APPLICATIONS, app["metadata"]["name"], causes)
    _review(app)
    return unknown


def _decode_object(value: Any, field: str) -> dict[str, Any]:
    """Return an object of the manifest; an empty one when it is missing, as Go has it."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _cannot_decode(f"json: cannot unmarshal {_name_type(value)} into Go struct field {field}")
    return value


def _cannot_decode(why: str) -> ApiError:
    return denied_by_webhook(MUTATING, why, code=400)


def _describe(error: TypeError | ValueError) -> str:
    """The words of Go's decoder for a model's first error, as far as the model knows them."""
    if not isinstance(error, ValidationError):
        return f"json: cannot unmarshal the spec: {error}"
    fault = error.errors()[0]
    field = ".".join([error.title.removeprefix("SparkV1beta2"), *(p for p in fault["loc"] if isinstance(p, str))])
    kind = _GO_TYPES.get(fault["type"], fault["type"])
    return f"json: cannot unmarshal {_name_type(fault['input'])} into Go struct field {field} of type {kind}"


def _name_type(value: Any) -> str:
    """Go's name of a JSON type."""
    if isinstance(value, bool):
        return "bool"
    return {str: "string", int: "number", float: "number", list: "array"}.get(type(value), "object")


def _fill_names(value: Any) -> None:
    """Give items of lists that have names an empty one where it is missing, in place."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        for item in inner if key in _NAMED and isinstance(inner, list) else ():
            if isinstance(item, dict):
                item.setdefault("name", "")
        _fill_names(inner)


def _drop_unknown(given: dict[str, Any], known: dict[str, Any], path: str) -> Iterator[str]:
    """Remove from `given` what a model did not keep, in place; yield the path of each field that had a value."""
    for name, value in list(given.items()):
        here = f"{path}{name}"
        if name not in known:
            del given[name]
            if value is not None:
                yield here
        elif isinstance(value, dict):
            yield from _drop_unknown(value, known[name], f"{here}.")
        elif isinstance(value, list):
            for index, (item, kept) in enumerate(zip(value, known[name], strict=True)):
                if isinstance(item, dict):
                    yield from _drop_unknown(item, kept, f"{here}[{index}].")


def _set_defaults(spec: dict[str, Any]) -> None:
    spec.setdefault("mode", "cluster")
    policy = spec.setdefault("restartPolicy", {})
    policy.setdefault("type", "Never")
    if policy["type"] != "Never":
        policy.setdefault("onFailureRetryInterval", 5)
        policy.setdefault("onSubmissionFailureRetryInterval", 5)
    for role in ("driver", "executor"):
        spec[role].setdefault("cores", 1)
        spec[role].setdefault("memory", "1g")
    spec["executor"].setdefault("instances", 1)


def _check_schema(app: Object) -> Iterator[Cause]:
    """Yield what the schema of the CRD refuses in an object that the mutating webhook has completed."""
    spec, name = app["spec"], app["metadata"]["name"]
    if spec.get("mainApplicationFile") is None:
        message = 'Invalid value: "null": spec.mainApplicationFile in body must be of type string: "null"'
        yield Cause("spec.mainApplicationFile", reason="FieldValueTypeInvalid", message=message)
    for path, allowed in _ALLOWED.items():
        value = _find(spec, path)
        if value not in allowed:
            supported = ", ".join(f'"{each}"' for each in allowed)
            message = f'Unsupported value: "{value}": supported values: {supported}'
            yield Cause(f"spec.{path}", reason="FieldValueNotSupported", message=message)
    for path, smallest in _SMALLEST.items():
        value = _find(spec, path)
        if value is not None and value < smallest:
            message = f"Invalid value: {value}: spec.{path} in body should be greater than or equal to {smallest}"
            yield Cause(f"spec.{path}", reason="FieldValueInvalid", message=message)
    if not _SUBDOMAIN.fullmatch(name) or len(name) > 253:
        message = f'Invalid value: "{name}": {_SUBDOMAIN_RULE}'
        yield Cause("metadata.name", reason="FieldValueInvalid", message=message)


def _find(spec: Mapping[str, Any], path: str) -> Any:
    value: Any = spec
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _review(app: Object) -> None:
    """Raise the refusals of the operator's validating webhook."""
    metadata, spec = app["metadata"], app["spec"]
    problems = ["must be no more than 63 characters"] if len(metadata["name"]) > 63 else []
    if not _DNS_1035.fullmatch(metadata["name"]):
        problems.append(_DNS_1035_RULE)
    if problems:
        message = f'invalid SparkApplication name "{metadata["name"]}": {", ".join(problems)}'
        raise denied_by_webhook(VALIDATING, message)
    roles = (spec["driver"], spec["executor"])
    if any(role.get("template") for role in roles) and _read_version(spec["sparkVersion"]) < _OLDEST_WITH_TEMPLATES:
        raise denied_by_webhook(VALIDATING, "pod template feature requires Spark version 3.0.0 or higher")
    if spec.get("nodeSelector") and any(role.get("nodeSelector") for role in roles):
        message = "node selector cannot be defined at both SparkApplication and Driver/Executor"
        raise denied_by_webhook(VALIDATING, message)
    for key, value in (spec.get("sparkConf") or {}).items():
        why = DENIED_CONF.get(key, "")
        if key == "spark.kubernetes.namespace" and value != metadata["namespace"]:
            why = f'must equal the application namespace "{metadata["namespace"]}", got "{value}"'
        if why:
            raise denied_by_webhook(VALIDATING, f'sparkConf key "{key}" is not allowed: {why}')


def _read_version(text: str) -> tuple[int, ...]:
    """The numbers of a version; none for a text that is no version, which is less than every version."""
    return tuple(int(number) for number in _NUMBER.findall(text)[:3])
