"""Faults on demand, for drills. They exist only with `--faults`; a real cluster has no such routes.

`POST /_faults` changes what its body names, `{}` disarms everything, `GET /_faults` tells what is armed:

    {"calls": {"status": 429, "count": 3, "delay_s": 0.5, "method": "POST", "path": "sparkapplications"}}
    {"hold": ["new", "pods"]}
    {"submission_failures": 2}

`calls` hits the next `count` API calls (null: all) whose method and path fit; each waits `delay_s` and then, with a
status, is refused with it instead of being served; 401, 403, 429, 500, 503 look as a real API server's. `hold` with
"new" leaves fresh applications in the empty state, as where no operator watches; with "pods" driver pods stay Pending.
The next `submission_failures` submissions fail.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from ingestion_devstack.kubernetes.errors import bad_request

_HOLDS: Final = {"new", "pods"}


@dataclass(frozen=True, slots=True)
class CallFault:
    """What happens to API calls."""

    status: int | None = None
    """The refusal; None: only the delay."""
    count: int | None = 1
    """Calls still to be hit; None: no end."""
    delay_s: float = 0.0
    method: str = ""
    """Empty: every method."""
    path: str = ""
    """A part of the path; empty: every path."""


class FaultPlan:
    """What is armed. Used from the event loop only."""

    def __init__(self) -> None:
        self._calls: CallFault | None = None
        self._hits_left: int | None = 0
        self._holds: frozenset[str] = frozenset()
        self._submission_failures = 0

    @property
    def holds_new(self) -> bool:
        """Whether fresh applications stay in the empty state."""
        return "new" in self._holds

    @property
    def holds_pods(self) -> bool:
        """Whether driver pods stay Pending."""
        return "pods" in self._holds

    def arm(self, request: Any) -> None:
        """Change what the request names; an empty object disarms everything.

        Raises:
            ApiError: 400 for an unknown field or an impossible value; nothing is changed then.
        """
        if not isinstance(request, dict) or not request.keys() <= {"calls", "hold", "submission_failures"}:
            raise bad_request("faults are an object with calls, hold and submission_failures")
        calls = _read_calls(request.get("calls"))
        holds, failures = request.get("hold") or [], request.get("submission_failures", 0)
        if not isinstance(holds, list) or not set(holds) <= _HOLDS or type(failures) is not int or failures < 0:
            raise bad_request("hold lists new and pods; submission_failures is a number from 0 on")
        if "calls" in request or not request:
            self._calls, self._hits_left = calls, calls.count if calls else 0
        if "hold" in request or not request:
            self._holds = frozenset(holds)
        if "submission_failures" in request or not request:
            self._submission_failures = failures

    def as_json(self) -> dict[str, Any]:
        """What is armed now."""
        calls = {**asdict(self._calls), "count": self._hits_left} if self._calls and self._hits_left != 0 else None
        return {"calls": calls, "hold": sorted(self._holds), "submission_failures": self._submission_failures}

    def next_call(self, method: str, path: str) -> CallFault | None:
        """Count one API call; return the fault if it is hit."""
        fault = self._calls
        if fault is None or self._hits_left == 0 or fault.path not in path or fault.method not in ("", method):
            return None
        if self._hits_left is not None:
            self._hits_left -= 1
        return fault

    def take_submission_failure(self) -> bool:
        """Whether this submission fails; counts it."""
        if self._submission_failures == 0:
            return False
        self._submission_failures -= 1
        return True


def _read_calls(value: Any) -> CallFault | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not value.keys() <= set(CallFault.__slots__):
        raise bad_request(f"calls is an object with {', '.join(CallFault.__slots__)}")
    fault = CallFault(**value)
    fits = (
        (fault.status is None or (type(fault.status) is int and 400 <= fault.status <= 599))
        and (fault.count is None or (type(fault.count) is int and fault.count >= 0))
        and (type(fault.delay_s) in (int, float) and fault.delay_s >= 0)
        and isinstance(fault.method, str)
        and isinstance(fault.path, str)
    )
    if not fits:
        raise bad_request("status is 400..599 or null, count >= 0 or null, delay_s >= 0, method and path are texts")
    return fault
