"""Every error of the product, by what to do about it.

::

    IngestionError            code, message, hint, context
    ├── ObjectError           skip the object, record it, go on
    ├── TransientError        wait and try again; never counts against an object
    ├── FatalError            stop the job; nothing further is written
    └── SubmissionError       answer the caller

A subclass exists only where somebody reacts differently to it. All are picklable and render from one source:
``log_fields()`` for logs, ``record()`` for the ledger, and problem+json in the API.
"""

from __future__ import annotations

from typing import Any


class IngestionError(Exception):
    """Root of all errors raised on purpose.

    Args:
        code: Stable identifier for programs, ``snake_case``.
        message: One sentence for people, naming the thing that is wrong.
        hint: What the reader can do about it; empty when there is nothing.
        context: Values named in the message, for logs and problem+json; JSON types only, never secrets.
    """

    def __init__(self, code: str, message: str, *, hint: str = "", **context: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.code, self.message, self.hint, self.context)

    def log_fields(self) -> dict[str, Any]:
        """Flat fields for a structured log line."""
        return {"error_code": self.code, "error": self.message, **{f"error_{k}": v for k, v in self.context.items()}}

    def record(self) -> dict[str, Any]:
        """The JSON object stored in the ledger and shown by the API."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "context": self.context}


def _rebuild(kind: type[IngestionError], code: str, message: str, hint: str, context: dict[str, Any]) -> IngestionError:
    return kind(code, message, hint=hint, **context)


class ObjectError(IngestionError):
    """One object cannot be ingested as it is; it is recorded as failed and the job goes on.

    ``retryable`` in the object table is False for these: the object is tried again only when its etag or the
    collection's fingerprint changes, or on request.
    """


class ObjectGone(ObjectError):
    """The object was listed but does not exist any more; its points are removed."""


class TextRefused(ObjectError):
    """The embedder refuses an input for good; a batch is halved until the guilty text is alone."""


class PointsRefused(ObjectError):
    """A store refuses some points of a batch for good; ``context["refused"]`` maps point id to the store's words."""


class TransientError(IngestionError):
    """A dependency is away or overloaded; the same call may succeed later.

    ``context["retry_after_s"]`` is the server's own wish, when it stated one.
    """


class FatalError(IngestionError):
    """The job cannot go on: its request, its contract or its permissions are wrong."""


class CollectionMissing(FatalError):
    """A collection does not exist in a vector store, or has no contract; some callers create it or read it as empty."""


class StateMissing(FatalError):
    """A file of the state store does not exist; some callers treat it as removed or as a corrupt plan."""


class LeaseLost(FatalError):
    """Another attempt owns the collection now; the writer stops at once and writes nothing more."""


class JobAborted(FatalError):
    """Somebody asked for the job to be canceled."""


class SubmissionError(IngestionError):
    """A request that is answered with an error instead of a job.

    Args:
        status: HTTP status of the answer.
        field: Dotted path of the request's field at fault, when there is one.
    """

    def __init__(
        self, code: str, message: str, *, hint: str = "", status: int = 422, field: str | None = None, **context: Any
    ) -> None:
        super().__init__(code, message, hint=hint, status=status, field=field, **context)
        self.status = status
        self.field = field


class StateConflict(IngestionError):
    """A conditional write found another value than the caller had read; read again and decide anew."""
