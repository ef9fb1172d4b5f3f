"""Validation errors as text."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ingestion_engine.domain.spec import JobRequest
from ingestion_engine.runtime.settings import SettingsError, load_settings
from ingestion_engine.runtime.validation import describe_faults


def test_faults_name_field_and_reason_without_the_value() -> None:
    """Every fault is in the text; no value is, because settings hold secrets."""
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate(
            {"source": {"bucket": "UPPER-secret", "nope": 1}, "collection": "c", "mode": "s3cret"}
        )
    text = describe_faults(caught.value)
    assert "source.nope: unknown field" in text
    assert "source.bucket: " in text
    assert "mode: " in text
    assert "secret" not in text.lower()
    assert "s3cret" not in text


def test_a_missing_field_is_required() -> None:
    """The wording is ours, not pydantic's."""
    with pytest.raises(ValidationError) as caught:
        JobRequest.model_validate({"collection": "c"})
    assert describe_faults(caught.value) == "source: required"


def test_settings_are_named_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """``INGEST_API__PORT`` is what a user can look for."""
    monkeypatch.setenv("INGEST_API__PORT", "many")
    with pytest.raises(SettingsError, match=r"^INGEST_API__PORT: ") as caught:
        load_settings()
    assert "many" not in str(caught.value)
