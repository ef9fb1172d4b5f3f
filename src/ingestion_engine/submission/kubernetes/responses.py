"""Translates error responses of Kubernetes, and exceptions of the official client, into the product's errors.

- The denial of an admission webhook is 403, like a missing permission; only the message distinguishes them.
- 404 is "no such object", "no such namespace" (only on create) and, as plain text, "no such resource type": the
  operator's CRD is not installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError, SSLError

from ingestion_engine.domain.errors import TransientError


class Answer(Exception):
    """An error response, with the fields of its Kubernetes ``Status`` if it has one."""

    def __init__(self, error: ApiException) -> None:
        super().__init__(f"HTTP {error.status}")
        try:
            status = orjson.loads(error.body or b"")
        except ValueError:
            status = None
        if not isinstance(status, dict) or status.get("kind") != "Status":
            status = {}
        self.status = int(error.status or 0)
        self.reason = str(status.get("reason") or "")
        self.message = str(status.get("message") or "")[:300]
        self.details: Mapping[str, Any] = status.get("details") or {}
        self.retry_after_s = _read_seconds((error.headers or {}).get("Retry-After"))

    @property
    def names_missing_object(self) -> bool:
        """True for a 404 about the requested object, not about its namespace or its type."""
        named = bool(self.details.get("name")) and self.details.get("kind") != "namespaces"
        return self.status == 404 and self.reason == "NotFound" and named

    @property
    def is_denied(self) -> bool:
        """True when an admission webhook has denied the object."""
        return self.status == 403 and "denied the request" in self.message


@contextlib.contextmanager
def kubernetes_errors() -> Iterator[None]:
    """Translate exceptions of the official client, and of urllib3 below it, by type."""
    try:
        yield
    except ApiException as error:
        if not error.status:  # how the client reports a TLS failure
            raise make_unreachable("cannot be reached: TLS failed", maybe_started=False) from error
        raise Answer(error) from None
    except HTTPError as error:
        cause: BaseException = getattr(error, "reason", None) or error
        if isinstance(cause, ConnectTimeoutError | NewConnectionError | SSLError):
            tls = ": TLS failed" if isinstance(cause, SSLError) else ""
            raise make_unreachable(f"cannot be reached{tls}", maybe_started=False) from error
        kind = "did not respond in time" if isinstance(cause, ReadTimeoutError) else "closed the connection"
        raise make_unreachable(kind, maybe_started=True) from error


def make_unreachable(what: str, *, maybe_started: bool) -> TransientError:
    """Return the error for a request without a response. Pure."""
    return TransientError("engine_unreachable", f"Kubernetes {what}.", maybe_started=maybe_started)


def _read_seconds(text: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header; None for a date or no header. Pure."""
    try:
        return float(text or "")
    except ValueError:
        return None


def translate_answer(answer: Answer, namespace: str) -> TransientError:
    """Return the error for an error response. Pure."""
    if answer.status == 401:
        return TransientError(
            "engine_access_denied",
            "Kubernetes rejected the credentials (HTTP 401).",
            hint="Check the kubeconfig or the service account.",
        )
    if answer.status == 403:
        return TransientError(
            "engine_access_denied",
            f"Kubernetes denied access: {answer.message or 'HTTP 403'}",
            hint=f"Allow the account to use sparkapplications, pods and pods/log in namespace {namespace!r}.",
        )
    if answer.status == 404 and not answer.details.get("name"):
        return TransientError(
            "engine_unexpected_answer",
            "Kubernetes has no resource type SparkApplication.",
            hint="Install the Spark operator with its CRDs, or check the address in the kubeconfig.",
        )
    if answer.status == 404:
        return TransientError(
            "engine_unexpected_answer",
            f"Kubernetes reported: {answer.message}",
            hint="Check INGEST_SPARK__NAMESPACE.",
        )
    if answer.status == 429:
        context: dict[str, Any] = {} if answer.retry_after_s is None else {"retry_after_s": answer.retry_after_s}
        return TransientError("engine_busy", "Kubernetes limits the rate of requests (HTTP 429).", **context)
    if "failed calling webhook" in answer.message:
        return TransientError(
            "engine_error",
            "The webhook of the Spark operator does not respond.",
            hint="Check the pods of the Spark operator.",
            status=answer.status,
            maybe_started=False,
        )
    return TransientError(
        "engine_error",
        f"Kubernetes failed (HTTP {answer.status}).",
        status=answer.status,
        maybe_started=answer.status >= 500,
    )
