"""The address of a job's spec, and how a process that knows nothing else reaches it.

``s3://bucket/prefix/jobs/JOB/spec.json?endpoint_url=http%3A%2F%2Fminio%3A9000&region=eu-west-1``

All else that driver and workers share is in the spec; its own S3 cannot be. An engine that sets variables for all
processes of a job (Kubernetes) needs no query. Ray can do so too, but then it starts every worker by way of another
Python process, which takes a second of processor time (``setup_worker.py``, Ray 2.60).
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from ingestion_engine.runtime.settings import S3Settings, Settings, load_settings

_END = "/spec.json"
_MARK = f"{_END}?"


def with_location(spec_uri: str, s3: S3Settings) -> str:
    """Return a spec's URI with the S3 endpoint and region behind it; no secret. Pure."""
    found = {"endpoint_url": s3.endpoint_url, "region": s3.region}
    return f"{spec_uri}?{urlencode({name: value for name, value in found.items() if value is not None})}"


def split_location(uri: str) -> tuple[str, dict[str, str]]:
    """Return a spec's URI alone and what stood behind it, by the names of ``S3Settings``; the inverse. Pure."""
    before, mark, query = uri.rpartition(_MARK)
    return (f"{before}{_END}", dict(parse_qsl(query))) if mark else (uri, {})


def load_settings_for(uri: str) -> tuple[Settings, str]:
    """Return this process's settings, with the S3 that the URI names in place of its own, and the URI alone.

    Raises:
        SettingsError: as ``load_settings``.
    """
    spec_uri, location = split_location(uri)
    settings = load_settings()
    return (settings.with_endpoints({"s3": location}) if location else settings), spec_uri
