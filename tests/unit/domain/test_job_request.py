"""The priority of a request: shown, hashed and frozen so that earlier releases of this minor version still agree."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ingestion_engine.domain.ids import hash_json
from ingestion_engine.domain.spec import EngineName, JobRequest, JobSpec
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.specs import make_spec

BODY = {"source": {"bucket": "docs"}, "collection": "notes"}

HASH_BEFORE = "8ada8cbe1fb6761fe229d5cf2d784f4cb25902c6de87b3d135b7f2b3305d3447"
"""Hash of ``BODY`` for Ray, as the service stored it before requests had a priority."""


def spec_of(body: dict[str, object]) -> JobSpec:
    request = JobRequest.model_validate(body)
    return make_spec(Settings(state_url="file:///s"), request, EngineName.RAY, "job-a", parallelism=1)


def test_a_request_without_a_priority_is_what_it_was() -> None:
    """A client that repeats an old request with its Idempotency-Key gets its job, also when it names the default."""
    for body in (BODY, {**BODY, "priority": 5}):
        request = JobRequest.model_validate(body)
        assert hash_json(["ray", request.model_dump(mode="json")]) == HASH_BEFORE
        assert request.priority == 5


def test_another_priority_is_another_request() -> None:
    """And it survives the row of the job."""
    request = JobRequest.model_validate({**BODY, "priority": 7})
    values = request.model_dump(mode="json")
    assert hash_json(["ray", values]) != HASH_BEFORE
    assert JobRequest.model_validate(values) == request


@pytest.mark.parametrize("priority", [0, 11, 5.5, "high", None])
def test_a_priority_is_a_whole_number_from_one_to_ten(priority: object) -> None:
    """Zero would starve a job."""
    with pytest.raises(ValidationError):
        JobRequest.model_validate({**BODY, "priority": priority})


def test_a_spec_carries_the_priority_where_earlier_workers_ignore_it() -> None:
    """Their request refuses unknown fields, their limits do not."""
    spec = spec_of({**BODY, "priority": 9})
    assert "priority" not in spec.model_dump(mode="json")["request"]
    assert spec.limits.embed_weight == 9
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec_of(dict(BODY)).limits.embed_weight == 5
