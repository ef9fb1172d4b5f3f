"""All errors of the product, by the reaction they require.

::

    IngestionError            code, message, hint, context
    ├── ObjectError           record the object as failed and continue
    ├── TransientError        wait and retry; never counts against an object
    ├── FatalError            stop the job; nothing further is written
    └── SubmissionError       return an error to the caller

A subclass exists only where the reaction differs. All errors are picklable and rendered from one source:
``log_fields()`` for logs, ``record()`` for the ledger, and problem+json in the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class IngestionError(Exception):
    """Base class of all errors raised on purpose.

    Args:
        code: Stable identifier for programs, ``snake_case``.
        message: One sentence that names what is wrong.
        hint: What the reader can do about it, starting with a verb; empty when there is nothing.
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
        """Return flat fields for a structured log line."""
        return {"error_code": self.code, "error": self.message, **{f"error_{k}": v for k, v in self.context.items()}}

    def record(self) -> dict[str, Any]:
        """Return the JSON object stored in the ledger and shown by the API; ``read_fatal_record`` reads it."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "context": self.context}


def _rebuild(kind: type[IngestionError], code: str, message: str, hint: str, context: dict[str, Any]) -> IngestionError:
    return kind(code, message, hint=hint, **context)


class ObjectError(IngestionError):
    """One object cannot be ingested; it is recorded as failed and the job continues.

    Its row of the object table is retried only when its etag or the collection's fingerprint changes, or on request,
    unless the error is ``retryable``.
    """

    retryable: ClassVar[bool] = False
    """True when the reason may pass although the object stays the same: every later job tries the object again."""


class ObjectGone(ObjectError):
    """The object was listed but does not exist any more; its points are removed."""


class ObjectUnreadable(ObjectError):
    """S3 refuses to read the object (permissions, an archive), which does not depend on its content."""

    retryable = True


class ParserDied(ObjectError):
    """Reading the object ended its parser process, which may be for want of memory."""

    retryable = True


class OcrUnavailable(ObjectError):
    """The worker lacks the program, or a language of it, that recognises scanned pages; it may be installed later."""

    retryable = True


class TextRefused(ObjectError):
    """The embedder permanently refuses an input; a batch is halved until the refused text is alone."""


class TextTooLong(TextRefused):
    """A text is longer than the model's context; the chunk is cut in two, and both parts are embedded."""


class PointsRefused(ObjectError):
    """A store permanently refuses some points of a batch; ``context["refused"]`` maps point ids to reasons."""


class TransientError(IngestionError):
    """A dependency is unavailable or overloaded; the same call may succeed later.

    ``context["retry_after_s"]`` is the time in seconds that the server requested, if it did.
    """


class TlsFailed(TransientError):
    """A server's certificate is not accepted; checks before a job refuse it, and a running job waits and names it.

    It lasts until somebody changes a certificate or a setting, so short retries are useless.
    """


class RequestFailed(TransientError):
    """Servers received a request and failed it: they are broken, or the request is what breaks them.

    Its texts may be at fault when the same servers embed another text.
    """


class FlowDropped(TransientError):
    """The gateway refuses the embedding requests of a job that was canceled; a repetition is refused too."""


class RequestTooLarge(TransientError):
    """A store takes a request only in smaller parts; repeating it as it is would never succeed."""


class DatabaseUnavailable(TransientError):
    """The database of jobs is unavailable: no job can be read or changed; the dispatcher waits without blaming one."""


class FatalError(IngestionError):
    """The job cannot continue: its request, its contract or its permissions are wrong."""


class CollectionMissing(FatalError):
    """A collection does not exist in a vector store, or has no contract; some callers create it or read it as empty."""


class StateMissing(FatalError):
    """A file of the state store does not exist; some callers treat it as removed or as a corrupt plan."""


class DimensionDiffers(FatalError):
    """A model returned vectors of another length than before: another model, or one text is at fault.

    Only the stage that embeds tells them apart; the record of this error is read as a FatalError.
    """


class LeaseLost(FatalError):
    """Another attempt owns the collection now; the writer stops at once."""


class JobAborted(FatalError):
    """Cancellation of the job was requested."""


_FATAL_KINDS: Mapping[str, type[FatalError]] = {
    "collection_missing": CollectionMissing,
    "state_missing": StateMissing,
    "lease_lost": LeaseLost,
    "job_aborted": JobAborted,
}
"""The class of each code that has its own; all other codes are FatalError itself."""


def read_fatal_record(record: Mapping[str, Any]) -> FatalError:
    """Return the error of a record that ``record()`` made of a FatalError, in the class it had. Pure.

    Missing fields are empty; a missing code is "unexpected_error".
    """
    code = str(record.get("code", "unexpected_error"))
    kind = _FATAL_KINDS.get(code, FatalError)
    return kind(code, str(record.get("message", "")), hint=str(record.get("hint", "")), **(record.get("context") or {}))


class SubmissionError(IngestionError):
    """A request that is rejected.

    Args:
        status: HTTP status of the response.
        field: Dotted path of the invalid request field; None when there is none.
    """

    def __init__(
        self, code: str, message: str, *, hint: str = "", status: int = 422, field: str | None = None, **context: Any
    ) -> None:
        super().__init__(code, message, hint=hint, status=status, field=field, **context)
        self.status = status
        self.field = field


class CollectionNotFound(SubmissionError):
    """The collection of a request does not exist; some routes add the unfinished job that creates it."""


class StateConflict(IngestionError):
    """A conditional write found a newer value than the caller had read; read it and decide again."""
