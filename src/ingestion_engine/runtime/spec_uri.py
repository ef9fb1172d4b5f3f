"""How to reach the S3 of a job's spec, in the job's URI, for processes that have no other settings.

All other settings that driver and workers share are in the spec; the S3 that holds the spec cannot be. An engine that
sets environment variables for all processes of a job (Kubernetes) does not need it in the URI. Ray can set them too,
but then it starts every worker through another Python process, which takes a second of CPU time (``setup_worker.py``,
Ray 2.60). See docs/decisions/0016.

The path of the file of authorities is in the URI for the same reason: without it a driver cannot read its spec. A
process's own ``INGEST_TLS__CA_FILE`` overrides it. See docs/decisions/0028.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError

from ingestion_engine.domain.errors import FatalError
from ingestion_engine.domain.job_uri import JobUri
from ingestion_engine.runtime.settings import Settings, SettingsError, TlsSettings, load_settings
from ingestion_engine.runtime.validation import describe_faults


def with_location(spec_uri: str, settings: Settings) -> str:
    """Return a job's URI that names the S3 endpoint, the region and the file of authorities; no secret. Pure."""
    s3, ca_file = settings.s3, settings.tls.ca_file
    uri = replace(JobUri.parse(spec_uri), endpoint_url=s3.server_url, region=s3.region)
    return str(uri if ca_file is None else replace(uri, ca_file=str(ca_file.absolute())))


def load_settings_for(uri: JobUri) -> Settings:
    """Return this process's settings, with the S3 endpoint and region that the URI names, if it names any.

    The file of authorities that it names is used when this process has no setting of its own.

    Raises:
        FatalError: "worker_misconfigured": a variable of this node is invalid, or the file of authorities cannot be
            used here. Repeating the work does not help, and no object is at fault.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        hint = "Correct the environment of drivers and workers on the cluster."
        raise FatalError("worker_misconfigured", f"A setting of this node is invalid: {error}", hint=hint) from None
    if uri.ca_file is not None and settings.tls.ca_file is None:
        settings = settings.model_copy(update={"tls": _read_tls(uri.ca_file)})
    return settings.with_endpoints({"s3": uri.location}) if uri.location else settings


def _read_tls(ca_file: str) -> TlsSettings:
    try:
        return TlsSettings.model_validate({"ca_file": ca_file})
    except ValidationError as error:
        reason = describe_faults(error).removeprefix("ca_file: ")
        raise FatalError(
            "worker_misconfigured",
            f"INGEST_TLS__CA_FILE of the service is {ca_file!r}, which this node cannot use: {reason}.",
            hint="Put the file there on every node of the cluster, or set INGEST_TLS__CA_FILE on the nodes.",
        ) from None
