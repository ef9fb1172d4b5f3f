"""Faults on demand, for drills. They exist only with `--faults`; a real cluster has no such routes.

`POST /_faults` changes what its body names, `{}` disarms everything, `GET /_faults` returns what is armed:

    {"calls": {"status": 429, "count": 3, "delay_s": 0.5, "method": "POST", "path": "sparkapplications"}}
    {"hold": ["pods"]}
    {"denied": ["get pods/log"]}
    {"webhook": "down"}

`calls` hits the next `count` API calls (null: all) that match method and path; each waits `delay_s` and then, with a
status, is refused with it in the form of a real API server. `hold` keeps what it names until it is released:
"submissions" (`spark-submit` does not return, so the state stays empty), "pods" (driver pods stay Pending without a
reason), "nodes" (they are unschedulable), "images" (their image cannot be pulled). `denied` takes permissions away
from the account. `webhook` makes the operator's webhook "absent" (it handles no namespace) or "down" (the API server
cannot reach it).
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from ingestion_devstack.kubernetes.errors import bad_request

HELD_PODS: Final = ("pods", "nodes", "images")
"""What keeps a driver pod Pending."""


class CallFault(BaseModel):
    """What happens to API calls."""

    model_config = ConfigDict(extra="forbid", strict=True)

    status: Literal[401, 403, 429, 500] | None = None
    """Status of the refusal; None means only the delay."""
    count: NonNegativeInt | None = 1
    """Calls still to be hit; None means no end."""
    delay_s: NonNegativeFloat = 0.0
    method: str = ""
    """Empty matches every method."""
    path: str = ""
    """A part of the path; empty matches every path."""


class FaultPlan(BaseModel):
    """The armed faults. Used from the event loop only."""

    model_config = ConfigDict(extra="forbid", strict=True)

    calls: CallFault | None = None
    hold: list[Literal["submissions", "pods", "nodes", "images"]] = []

    def arm(self, request: Any) -> None:
        """Change what the request names; an empty object disarms everything.

        Raises:
            ApiError: 400 for an unknown field or an impossible value; nothing is changed then.
        """
        try:
            wanted = FaultPlan.model_validate(request)
        except ValidationError as error:
            raise bad_request(f"The request is not a set of faults: {error}") from error
        for name in wanted.model_fields_set or FaultPlan.model_fields:
            setattr(self, name, getattr(wanted, name))

    denied: list[str] = []
    webhook: Literal["absent", "down"] | None = None

    @property
    def held_pods(self) -> str | None:
        """What keeps driver pods Pending; None when nothing does."""
        return next((name for name in HELD_PODS if name in self.hold), None)

    def next_call(self, method: str, path: str) -> CallFault | None:
        """Count one API call; return the fault if it is hit."""
        fault = self.calls
        if fault is None or fault.count == 0 or fault.path not in path or fault.method not in ("", method):
            return None
        if fault.count is not None:
            fault.count -= 1
        return fault
