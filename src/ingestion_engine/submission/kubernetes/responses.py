"""Translates error responses of Kubernetes, and exceptions of the official client, into the product's errors.

- Every error of an API server is a ``Status`` object. Exceptions, in plain text: the 404 of a path that is not served
  (the operator's CRD is not installed) and the 429 of its flow control. Whatever else has no ``Status`` comes from
  another server or from a proxy: it says nothing about the manifest and ends no job.
- 403 has many causes, and only the message distinguishes them: a missing permission, a policy or an admission webhook,
  a quota, a namespace that is being deleted.
- A webhook that cannot decode the object answers 400 without a ``reason``.
- 404 is "no such object", "no such namespace" (only on create) and, as plain text, "no such resource type".

Texts of Kubernetes 1.34 (k8s.io/apiserver, ``pkg/admission/plugin``) and of the Spark operator 2.5.2.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    ResponseError,
    SSLError,
)

from ingestion_engine.domain.errors import TransientError
from ingestion_engine.runtime.tls import find_tls_failure

_UNSERVED_PATH: Final = "404 page not found"
"""Body of the answer to a path that an API server does not serve."""
_PLAIN_HTTP: Final = "an HTTP request to an HTTPS server"
"""In the 400 by which servers in Go, API servers too, answer plain HTTP on their TLS port (``net/http``)."""
_WEBHOOK: Final = re.compile(r'failed calling webhook "([^"]+)"')
_DENIED: Final = ("denied the request", "denied request")
"""In refusals of admission webhooks, and of ValidatingAdmissionPolicies."""
_QUOTA: Final = ("exceeded quota", "status unknown for quota", "failed quota", "failed to validate resource quota")
"""In refusals by a ResourceQuota of Kubernetes, and by the operator's own check of it."""
_NOT_CHECKED: Final = "failed to list resource quotas"
"""In the denial by an operator that could not read the quotas."""
_TERMINATING: Final = "because it is being terminated"


class Answer(Exception):
    """An error response, with the fields of its Kubernetes ``Status`` if it has one."""

    def __init__(self, error: ApiException) -> None:
        super().__init__(f"HTTP {error.status}")
        try:
            status = orjson.loads(error.body or b"")
        except ValueError:
            status = None
        self.is_status = isinstance(status, dict) and status.get("kind") == "Status"
        """False when something else than an API server has answered, apart from the exceptions named above."""
        if not self.is_status:
            status = {}
        self.body = "" if self.is_status else _read_text(error.body)
        self.status = int(error.status or 0)
        self.reason = str(status.get("reason") or "")
        self.message = str(status.get("message") or "")[:500].rstrip(".")
        """Kubernetes's own words, without a full stop; empty when there are none."""
        self.details: Mapping[str, Any] = status.get("details") or {}
        self.retry_after_s = _read_seconds((error.headers or {}).get("Retry-After"))

    @property
    def names_missing_object(self) -> bool:
        """True for a 404 about the requested object, not about its namespace or its type."""
        named = bool(self.details.get("name")) and self.details.get("kind") != "namespaces"
        return self.status == 404 and self.reason == "NotFound" and named

    @property
    def refuses_object(self) -> bool:
        """True when schema, webhook or policy refuse the object for good, so that it must not be sent again."""
        if not self.is_status or self.exceeds_quota or _NOT_CHECKED in self.message or _WEBHOOK.search(self.message):
            return False
        is_denied = self.status == 403 and any(text in self.message for text in _DENIED)
        return is_denied or self.status in {400, 422}

    @property
    def is_webhook_down(self) -> bool:
        """True when the API server could not reach an admission webhook that must agree."""
        return self.is_status and _WEBHOOK.search(self.message) is not None

    @property
    def is_unserved_path(self) -> bool:
        """True for an API server's answer to a path that it does not serve, such as that of a missing CRD."""
        return self.status == 404 and self.body == _UNSERVED_PATH

    @property
    def exceeds_quota(self) -> bool:
        """True when a quota refuses the object: it may be sent again when other objects are gone."""
        return self.status == 403 and any(text in self.message for text in _QUOTA)


@contextlib.contextmanager
def kubernetes_errors() -> Iterator[None]:
    """Translate exceptions of the official client, and of urllib3 below it, by type."""
    try:
        yield
    except ApiException as error:
        if not error.status:  # how the client reports a TLS failure, and an answer of a type that it cannot read
            _raise_tls_failure(error)
            if not str(error.reason).startswith("SSLError"):
                raise _make_unreadable() from error
            raise make_unreachable("cannot be reached: TLS failed", maybe_started=False) from error
        raise Answer(error) from None
    except HTTPError as error:
        _raise_tls_failure(error)
        cause: BaseException = getattr(error, "reason", None) or error
        if isinstance(cause, ResponseError):
            raise make_foreign("redirects requests") from error
        if isinstance(cause, ConnectTimeoutError | NewConnectionError | SSLError):
            tls = ": TLS failed" if isinstance(cause, SSLError) else ""
            raise make_unreachable(f"cannot be reached{tls}", maybe_started=False) from error
        kind = "did not respond in time" if isinstance(cause, ReadTimeoutError) else "closed the connection"
        raise make_unreachable(kind, maybe_started=True) from error
    except ValueError as error:  # the client reads a success as UTF-8, and as JSON if it is labelled so
        raise _make_unreadable() from error


def _raise_tls_failure(error: Exception) -> None:
    """Raise TlsFailed when a certificate caused an error; return otherwise."""
    failure = find_tls_failure(error, "Kubernetes", maybe_started=False)
    if failure is not None:
        raise failure from error


def make_unreachable(what: str, *, maybe_started: bool) -> TransientError:
    """Return the error for a request without a response. Pure."""
    return TransientError("engine_unreachable", f"Kubernetes {what}.", maybe_started=maybe_started)


def make_foreign(what: str, *, hint: str = "") -> TransientError:
    """Return the error for a response that no API server gives. Pure."""
    return TransientError(
        "engine_unexpected_answer",
        f"The configured address does not point to a Kubernetes API server: it {what}.",
        hint=hint or "Check INGEST_SPARK__KUBECONFIG and INGEST_SPARK__CONTEXT, and proxies in front of Kubernetes.",
    )


def _make_unreadable() -> TransientError:
    """Return the error for an answer that is no JSON. Pure."""
    error = make_foreign("answered with something else than JSON")
    error.context["maybe_started"] = True  # an answer of Kubernetes that was cut short looks the same
    return error


def _read_seconds(text: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header; None for a date or no header. Pure."""
    try:
        return float(text or "")
    except ValueError:
        return None


def _read_text(body: Any) -> str:
    """Return the start of a body. Pure."""
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else str(body or "")
    return text[:1000].strip()


def translate_answer(answer: Answer, namespace: str) -> TransientError:
    """Return the error for an error response that refuses nothing for good. Pure."""
    if answer.status == 401:
        return TransientError(
            "engine_access_denied",
            "Kubernetes rejected the credentials (HTTP 401).",
            hint="Check the kubeconfig or the service account.",
        )
    if answer.status == 429:
        context: dict[str, Any] = {} if answer.retry_after_s is None else {"retry_after_s": answer.retry_after_s}
        return TransientError("engine_busy", "Kubernetes limits the rate of requests (HTTP 429).", **context)
    webhook = _WEBHOOK.search(answer.message)
    if webhook is not None:
        return TransientError(
            "engine_error",
            f"The webhook {webhook[1]!r} of Kubernetes does not respond.",
            hint="Check the pods of the Spark operator, or of the program that the webhook belongs to.",
            status=answer.status,
            maybe_started=False,
        )
    if answer.status >= 500:
        # Without a Status: a load balancer in front of API servers that are unavailable.
        return TransientError(
            "engine_error", f"Kubernetes failed (HTTP {answer.status}).", status=answer.status, maybe_started=True
        )
    if not answer.is_status:
        return _translate_foreign(answer)
    if answer.status == 403:
        return _translate_forbidden(answer, namespace)
    if answer.status == 404:
        return TransientError(
            "engine_unexpected_answer",
            f"Kubernetes reported: {answer.message}.",
            hint="Create the namespace, or correct INGEST_SPARK__NAMESPACE.",
        )
    return TransientError(
        "engine_error", f"Kubernetes failed (HTTP {answer.status}).", status=answer.status, maybe_started=False
    )


def _translate_foreign(answer: Answer) -> TransientError:
    """Return the error for a response that is no ``Status`` object. Pure."""
    if answer.body == _UNSERVED_PATH:
        return TransientError(
            "engine_unexpected_answer",
            "Kubernetes has no resource type SparkApplication.",
            hint="Install the Spark operator with its CRDs, or check the address in the kubeconfig.",
        )
    if _PLAIN_HTTP in answer.body:
        return make_foreign("requires TLS", hint="Use https:// in the address in the kubeconfig.")
    return make_foreign(f"answered HTTP {answer.status} without a Status object")


def _translate_forbidden(answer: Answer, namespace: str) -> TransientError:
    """Return the error for a 403 of an API server. Pure."""
    if answer.exceeds_quota:
        return TransientError(
            "engine_quota_exceeded",
            f"A quota of Kubernetes allows no further SparkApplication: {answer.message}.",
            hint=f"Wait for other jobs to end, or raise the ResourceQuota of namespace {namespace!r}.",
        )
    if _TERMINATING in answer.message:
        return TransientError(
            "engine_namespace_terminating",
            f"Kubernetes is deleting namespace {namespace!r}.",
            hint="Create the namespace again when it is gone, or change INGEST_SPARK__NAMESPACE.",
        )
    if "system:anonymous" in answer.message:
        hint = "Check the kubeconfig or the service account: the request carried no credentials."
    elif " cannot " in answer.message:  # how role-based access control denies
        hint = f"Grant the account the Role of docs/spark-manifest.md in namespace {namespace!r}."
    else:
        hint = f"Check the admission policies of namespace {namespace!r}."
    message = f"Kubernetes denied access: {answer.message or 'no reason given'}."
    return TransientError("engine_access_denied", message, hint=hint)
