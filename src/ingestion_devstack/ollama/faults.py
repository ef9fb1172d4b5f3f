"""Faults on demand and call counters, for drills. Both exist only with `--faults`; the real server has neither.

`POST /_faults {"status": 503, "body": {...}, "count": N, "delay_s": s}` arms one fault: each of the next N calls of
`POST /api/embed` waits `delay_s` and, if `status` is given, is answered with it. With `"kills_runner": true` the runner
dies under the call, as a real one that is killed or runs out of memory. With `"marker": "..."` only calls whose body
contains these characters are hit, as by a text that stops the runner every time; with `"loses_vectors": true` only
such texts get null instead of a vector. `{}` disarms. `GET /_stats` returns
the counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from ingestion_devstack.ollama.requests import BadRequestError


class Fault(BaseModel):
    """What happens to calls, and to how many."""

    model_config = ConfigDict(extra="forbid", strict=True)

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    """HTTP status of the answer; None means only the delay, then the real answer."""
    body: Any = {"error": "injected fault"}
    count: NonNegativeInt | None = None
    """Calls still to be hit; None means no end."""
    delay_s: NonNegativeFloat = 0.0
    kills_runner: bool = False
    loses_vectors: bool = False
    """Texts with the marker get null instead of a vector, as when the runner answers with none."""
    marker: str = ""


@dataclass(slots=True)
class EmbedStats:
    """Counters since the start of the server, of `POST /api/embed` only."""

    embed_requests: int = 0
    """All calls, whatever their answer."""
    texts_embedded: int = 0
    """Vectors computed, also those of calls that failed."""
    texts_in_vain: int = 0
    """Of these, vectors of calls that were refused, failed or dropped."""
    refused_requests: int = 0
    """Calls refused because of a text: over the context, or a vector that is not a number."""
    in_flight: int = 0
    """Calls being served now."""


class FaultPlan:
    """The armed fault. Used from the event loop only."""

    def __init__(self) -> None:
        """Start without a fault."""
        self._fault = Fault(count=0)

    def arm(self, request: object) -> None:
        """Replace the armed fault; an empty object disarms.

        Raises:
            BadRequestError: unknown field or impossible value.
        """
        try:
            self._fault = Fault.model_validate({"count": 0} if request == {} else request)
        except ValidationError as error:
            raise BadRequestError(f"The request is not a fault: {error}") from error

    def next_call(self, body: bytes) -> Fault | None:
        """Count one embed call; return the fault if this call is hit."""
        if self._fault.count == 0 or self._fault.marker.encode() not in body:
            return None
        if self._fault.count is not None:
            self._fault.count -= 1
        return self._fault
