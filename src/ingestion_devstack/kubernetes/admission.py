"""What happens to a SparkApplication before it is stored: metadata rules, defaults, and the operator's refusals.

Defaults and refusals are those of the operator's webhooks (internal/webhook, api/v1beta2/defaults.go). One difference:
required fields and types are judged on the object as it was sent, with 422. On a real cluster the mutating webhook sees
the object first: it fills a missing `type` or `driver`, and answers 400 to a value of the wrong type. So what passes
here passes there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ingestion_devstack.kubernetes.errors import ApiError, Cause, denied_by_webhook
from ingestion_devstack.kubernetes.store import Object

WEBHOOK: Final = "validate-sparkapplication.sparkoperator.k8s.io"

_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
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
_LABEL_RULE: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
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
"""Keys of `sparkConf` that the operator refuses (internal/webhook/sparkconf_validator.go), with its reasons."""


def is_subdomain(name: str) -> bool:
    """Whether a text can be the name of a pod."""
    return len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None


def check_metadata(metadata: dict[str, Any]) -> Iterator[Cause]:
    """Yield what no API server takes as name or labels."""
    name = metadata["name"]
    if len(name) > 253:
        yield Cause(
            "metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": must be no more than 253 characters'
        )
    if not _SUBDOMAIN.fullmatch(name):
        yield Cause("metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {_SUBDOMAIN_RULE}')
    for key, value in (metadata.get("labels") or {}).items():
        prefix, _, short = key.rpartition("/")
        if len(short) > 63 or not _LABEL.fullmatch(short) or (prefix and not _SUBDOMAIN.fullmatch(prefix)):
            message = f"Invalid value: \"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.'"
            yield Cause("metadata.labels", "FieldValueInvalid", message)
        if len(value) > 63:
            message = f'Invalid value: "{value}": must be no more than 63 characters'
            yield Cause("metadata.labels", "FieldValueInvalid", message)
        elif value and not _LABEL.fullmatch(value):
            yield Cause("metadata.labels", "FieldValueInvalid", f'Invalid value: "{value}": {_LABEL_RULE}')


def drop_nulls(value: Any) -> None:
    """Remove every null field, in place: in the typed objects that pass the webhook, null is the same as absent."""
    if isinstance(value, dict):
        for name in [name for name, item in value.items() if item is None]:
            del value[name]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        drop_nulls(item)


def set_defaults(spec: dict[str, Any]) -> None:
    """Fill what the operator's mutating webhook fills, in place."""
    spec.setdefault("mode", "cluster")
    policy = spec.setdefault("restartPolicy", {})
    policy.setdefault("type", "Never")
    if policy["type"] != "Never":
        policy.setdefault("onFailureRetryInterval", 5)
        policy.setdefault("onSubmissionFailureRetryInterval", 5)
    conf = spec.get("sparkConf") or {}
    for role in ("driver", "executor"):
        for field, value in (("cores", 1), ("memory", "1g")):
            if f"spark.{role}.{field}" not in conf:
                spec[role].setdefault(field, value)
    allocation = spec.get("dynamicAllocation")
    dynamic = bool(allocation["enabled"]) if allocation and "enabled" in allocation else False
    if dynamic and allocation:
        allocation.setdefault("shuffleTrackingEnabled", True)
    elif not conf.get("spark.executor.instances"):
        spec["executor"].setdefault("instances", 1)


def review(app: Object) -> None:
    """Refuse what the operator's validating webhook refuses.

    Raises:
        ApiError: 403, with the webhook's name and the operator's reason.
    """
    name, spec = app["metadata"]["name"], app["spec"]
    problems = []
    if len(name) > 63:
        problems.append("must be no more than 63 characters")
    if not _DNS_1035.fullmatch(name):
        problems.append(_DNS_1035_RULE)
    if problems:
        raise _denied(f'invalid SparkApplication name "{name}": {", ".join(problems)}')
    templated = [role for role in ("driver", "executor") if spec[role].get("template") is not None]
    if templated and _major(spec["sparkVersion"]) < 3:
        raise _denied("pod template feature requires Spark version 3.0.0 or higher")
    placed = [role for role in ("driver", "executor") if spec[role].get("nodeSelector") is not None]
    if placed and spec.get("nodeSelector") is not None:
        raise _denied("node selector cannot be defined at both SparkApplication and Driver/Executor")
    _review_ingresses(spec.get("driverIngressOptions") or [])
    for key, value in (spec.get("sparkConf") or {}).items():
        why = DENIED_CONF.get(key, "")
        if key == "spark.kubernetes.namespace" and value != app["metadata"]["namespace"]:
            why = f'must equal the application namespace "{app["metadata"]["namespace"]}", got "{value}"'
        if why:
            raise _denied(f'sparkConf key "{key}" is not allowed: {why}')


def _review_ingresses(options: list[dict[str, Any]]) -> None:
    ports, formats = [o.get("servicePort") for o in options], [o.get("ingressURLFormat") or "" for o in options]
    if None in ports:
        raise _denied("DriverIngressOptions has nill ServicePort")  # the operator's spelling
    if len(set(ports)) < len(ports):
        raise _denied(f"DriverIngressOptions has duplicate ServicePort: {_first_twice(ports)}")
    if "" in formats:
        raise _denied("DriverIngressOptions has empty IngressURLFormat")
    if len(set(formats)) < len(formats):
        raise _denied(f"DriverIngressOptions has duplicate IngressURLFormat: {_first_twice(formats)}")


def _first_twice(values: list[Any]) -> Any:
    return next(value for index, value in enumerate(values) if value in values[:index])


def _major(version: str) -> int:
    digits = re.match(r"v?(\d+)", version)
    return int(digits[1]) if digits else 0


def _denied(why: str) -> ApiError:
    return denied_by_webhook(WEBHOOK, why)
