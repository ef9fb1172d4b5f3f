"""The S3 endpoint and region in a job's URI, for processes that have no other settings.

All other settings that driver and workers share are in the spec; the S3 that holds the spec cannot be. An engine that
sets environment variables for all processes of a job (Kubernetes) does not need it in the URI. Ray can set them too,
but then it starts every worker through another Python process, which takes a second of CPU time (``setup_worker.py``,
Ray 2.60). See docs/decisions/0016.
"""

from __future__ import annotations

from dataclasses import replace

from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.runtime.settings import S3Settings, Settings, load_settings


def with_location(spec_uri: str, s3: S3Settings) -> str:
    """Return a job's URI that names the S3 endpoint and region; no secret. Pure."""
    return str(replace(JobUri.parse(spec_uri), endpoint_url=s3.endpoint_url, region=s3.region))


def load_settings_for(uri: JobUri) -> Settings:
    """Return this process's settings, with the S3 endpoint and region that the URI names, if it names any.

    Raises:
        SettingsError: as ``load_settings``.
    """
    settings = load_settings()
    return settings.with_endpoints({"s3": uri.location}) if uri.location else settings
