"""What Kubernetes' answers, and the official client's errors, mean to us.

- An admission webhook's denial is 403 like a missing permission; only the message tells them apart.
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
    """An answer that is no success, as far as it is a Kubernetes ``Status``."""

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
        """True for a 404 about the object asked for, not about its namespace or its type."""
        named = bool(self.details.get("name")) and self.details.get("kind") != "namespaces"
        return self.status == 404 and self.reason == "NotFound" and named

    @property
    def is_denied(self) -> bool:
        """True when an admission webhook has looked at the object and refuses it."""
        return self.status == 403 and "denied the request" in self.message


@contextlib.contextmanager
def kubernetes_errors() -> Iterator[None]:
    """Turn the official client's errors, and urllib3's below it, into ours, by type."""
    try:
        yield
    except ApiException as error:
        if not error.status:  # the client's own word for a TLS failure
            raise make_unreachable("cannot be reached: TLS failed", maybe_started=False) from error
        raise Answer(error) from None
    except HTTPError as error:
        cause: BaseException = getattr(error, "reason", None) or error
        if isinstance(cause, ConnectTimeoutError | NewConnectionError | SSLError):
            tls = ": TLS failed" if isinstance(cause, SSLError) else ""
            raise make_unreachable(f"cannot be reached{tls}", maybe_started=False) from error
        kind = "does not answer in time" if isinstance(cause, ReadTimeoutError) else "broke the connection"
        raise make_unreachable(kind, maybe_started=True) from error


def make_unreachable(what: str, *, maybe_started: bool) -> TransientError:
    """Return the error of a request without an answer."""
    return TransientError("engine_unreachable", f"Kubernetes {what}", maybe_started=maybe_started)


def _read_seconds(text: str | None) -> float | None:
    """Seconds of a ``Retry-After``; None for a date or nothing."""
    try:
        return float(text or "")
    except ValueError:
        return None


def translate_answer(answer: Answer, namespace: str) -> TransientError:
    """The reaction to an answer that is no success. Pure."""
    if answer.status == 401:
        return TransientError(
            "engine_access_denied",
            "Kubernetes does not accept our credentials (HTTP 401)",
            hint="check the kubeconfig or the service account",
        )
    if answer.status == 403:
        return TransientError(
            "engine_access_denied",
            f"Kubernetes refuses us: {answer.message or 'HTTP 403'}",
            hint=f"the account needs sparkapplications, pods and pods/log in namespace {namespace}",
        )
    if answer.status == 404 and not answer.details.get("name"):
        return TransientError(
            "engine_unexpected_answer",
            "this Kubernetes does not know SparkApplications",
            hint="install the Spark operator with its CRDs, or check the kubeconfig's address",
        )
    if answer.status == 404:
        return TransientError(
            "engine_unexpected_answer",
            f"Kubernetes says: {answer.message}",
            hint="check INGEST_SPARK__NAMESPACE",
        )
    if answer.status == 429:
        context: dict[str, Any] = {} if answer.retry_after_s is None else {"retry_after_s": answer.retry_after_s}
        return TransientError("engine_busy", "Kubernetes asks us to slow down (HTTP 429)", **context)
    if "failed calling webhook" in answer.message:
        return TransientError(
            "engine_error",
            "the Spark operator's webhook does not answer",
            hint="check the operator's pods",
            status=answer.status,
            maybe_started=False,
        )
    return TransientError(
        "engine_error",
        f"Kubernetes failed (HTTP {answer.status})",
        status=answer.status,
        maybe_started=answer.status >= 500,
    )
