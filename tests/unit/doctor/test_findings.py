"""Results of checks: their JSON, what counts as good, and that no secret is in them."""

from __future__ import annotations

import orjson

from ingestion_engine.doctor.findings import count_states, fail, find_secrets, hide_secrets, is_good, ok, warn
from ingestion_engine.runtime.settings import Settings


def test_every_secret_of_the_settings_is_found() -> None:
    """Secret fields, and passwords in URLs, as they are written and as they are meant."""
    settings = Settings(
        s3={"access_key_id": "key-id", "secret_access_key": "s3-secret"},
        ray={"auth_token": "ray-token"},
        ollama={"urls": ["http://user:ollama-word@host:11434"]},
        database_url="postgresql://user:data%40base@host/jobs?sslpassword=of-the-key",
    )
    assert set(find_secrets(settings)) == {
        *("key-id", "s3-secret", "ray-token", "ollama-word", "data%40base", "data@base", "of-the-key"),
    }


def test_secrets_leave_no_field_of_a_result() -> None:
    """Also what a server repeats in its error is hidden, in texts and in values; lines become one."""
    finding = fail(
        "login\nfailed for postgresql://user:geheim@host/jobs", "Check geheim.", target="geheim", seen=["a geheim", 1]
    )
    text = orjson.dumps(hide_secrets(finding, ("geheim",)).to_json()).decode()
    assert "geheim" not in text
    assert "login failed for postgresql://host/jobs" in text


def test_warnings_fail_only_when_they_are_to() -> None:
    """Only failures are bad by default."""
    findings = [ok("fine"), warn("so so", "Change it.")]
    assert is_good(findings, strict=False)
    assert not is_good(findings, strict=True)
    assert not is_good([*findings, fail("broken", "Repair it.")], strict=False)
    assert count_states(findings) == {"ok": 1, "warning": 1, "failed": 0, "not_configured": 0, "skipped": 0}


def test_the_json_has_every_field() -> None:
    """A result without a target or a hint has null there, so that a reader need not ask whether a field exists."""
    assert ok("fine", latency_ms=1.5, version="1").to_json() == {
        "name": "",
        "target": None,
        "state": "ok",
        "detail": "fine",
        "hint": None,
        "code": None,
        "latency_ms": 1.5,
        "facts": {"version": "1"},
    }
