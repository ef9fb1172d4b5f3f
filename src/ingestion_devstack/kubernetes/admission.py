"""Checks and defaults of a SparkApplication before it is stored.

Schema: the pydantic models of `kubeflow-spark-api`, made from the operator's CRD; they carry types, but no ranges or
enumerations, so the stand-in accepts some values that a cluster refuses (`restartPolicy.type: Sometimes`). Names follow
Kubernetes 1.32 (k8s.io/apimachinery `pkg/util/validation`). Defaults and refusals are those of the operator's webhooks
(Spark operator 2.5.2, `api/v1beta2/defaults.go`, `internal/webhook/sparkapplication_validator.go` and
`sparkconf_validator.go`); not imitated are its checks of ingresses, node selectors and templates, and defaults taken
from `sparkConf`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from kubeflow_spark_api.models.spark_v1beta2_spark_application import SparkV1beta2SparkApplication
from pydantic import ValidationError

from ingestion_devstack.kubernetes.errors import Cause, bad_request, denied_by_webhook, invalid
from ingestion_devstack.kubernetes.http import SPARK_APPLICATIONS
from ingestion_devstack.kubernetes.store import Object

WEBHOOK: Final = "validate-sparkapplication.sparkoperator.k8s.io"

_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
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
_REQUIRED: Final = ("type", "sparkVersion", "driver", "executor")
"""Required fields of the CRD's spec; the models fill in an empty text instead of refusing."""
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


def admit(app: Object, *, strict: bool) -> list[str]:
    """Validate an application, drop unknown fields and set defaults, in place; return warnings about dropped fields.

    Raises:
        ApiError: 422 by the schema, 400 for unknown fields with `strict`, 403 by the operator's webhook.
    """
    spec, name = app.get("spec"), app["metadata"]["name"]
    missing = [field for field in _REQUIRED if not isinstance(spec, dict) or spec.get(field) is None]
    causes = [Cause(f"spec.{field}", reason="FieldValueRequired", message="Required value") for field in missing]
    if not _SUBDOMAIN.fullmatch(name) or len(name) > 253:
        message = f'Invalid value: "{name}": {_SUBDOMAIN_RULE}'
        causes.append(Cause("metadata.name", reason="FieldValueInvalid", message=message))
    if causes:
        raise invalid(SPARK_APPLICATIONS, name, causes)
    try:
        read = SparkV1beta2SparkApplication.from_dict(app)
    except (TypeError, ValueError) as error:
        raise invalid(SPARK_APPLICATIONS, name, _read_causes(error)) from error
    assert read is not None, "the input is an object"
    unknown = [f'unknown field "{path}"' for path in _drop_unknown(app, read.to_dict(), "")]
    if unknown and strict:
        message = 'SparkApplication in version "v1beta2" cannot be handled as a SparkApplication: '
        raise bad_request(message + "strict decoding error: " + ", ".join(unknown))
    _set_defaults(app["spec"])
    _review(app)
    return unknown


def _read_causes(error: TypeError | ValueError) -> list[Cause]:
    """The causes of a model's error; its fields are relative to the model, which the field's first part names."""
    if not isinstance(error, ValidationError):
        return [Cause("spec", reason="FieldValueInvalid", message=f"Invalid value: {error}")]
    return [
        Cause(
            ".".join([error.title.removeprefix("SparkV1beta2"), *map(str, fault["loc"])]),
            reason="FieldValueInvalid",
            message=f"Invalid value: {fault['msg']}",
        )
        for fault in error.errors()
    ]


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


def _review(app: Object) -> None:
    """Raise the refusals of the operator's validating webhook."""
    metadata = app["metadata"]
    problems = ["must be no more than 63 characters"] if len(metadata["name"]) > 63 else []
    if not _DNS_1035.fullmatch(metadata["name"]):
        problems.append(_DNS_1035_RULE)
    if problems:
        message = f'invalid SparkApplication name "{metadata["name"]}": {", ".join(problems)}'
        raise denied_by_webhook(WEBHOOK, message)
    for key, value in (app["spec"].get("sparkConf") or {}).items():
        why = DENIED_CONF.get(key, "")
        if key == "spark.kubernetes.namespace" and value != metadata["namespace"]:
            why = f'must equal the application namespace "{metadata["namespace"]}", got "{value}"'
        if why:
            raise denied_by_webhook(WEBHOOK, f'sparkConf key "{key}" is not allowed: {why}')
