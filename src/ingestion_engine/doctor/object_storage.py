"""S3: the account, the clock, a source bucket; and the state store."""

from __future__ import annotations

from typing import Final

from ingestion_engine.adapters.connect import open_state_store
from ingestion_engine.adapters.s3.state_store import S3StateStore
from ingestion_engine.adapters.s3.trial import S3Trial
from ingestion_engine.doctor.context import Context, Role, in_thread, timed
from ingestion_engine.doctor.findings import Finding, fail, not_configured, ok, skip, warn
from ingestion_engine.domain.errors import IngestionError, ObjectError
from ingestion_engine.state.trial import make_trial_path, remove_left_behind, try_operations

SKEW_REFUSED_S: Final = 15 * 60.0
"""S3 refuses requests whose time differs by more than 15 minutes (S3 API reference, ``RequestTimeTooSkewed``)."""

SKEW_S: Final = 60.0
"""Difference of clocks that is worth a warning: it grows."""


async def check_s3(context: Context) -> list[Finding]:
    """Send one request with the credentials; they need no permission for it."""
    settings = context.settings
    trial = await in_thread(lambda: S3Trial(settings.s3, ca_file=settings.tls.ca_file))
    try:
        _, latency_ms = await timed(lambda: in_thread(trial.check_account))
    except IngestionError as error:
        ahead_s = trial.seen.ahead_s if trial.seen is not None else None
        if ahead_s is not None and abs(ahead_s) > SKEW_REFUSED_S:
            detail = f"{error.message} {_describe_skew(ahead_s)}"
            return [fail(detail, "Synchronise both clocks by NTP.", code=error.code, ahead_s=round(ahead_s))]
        raise
    seen = trial.seen
    product = f" ({seen.product})" if seen is not None and seen.product else ""
    detail = f"{trial.endpoint_url}{product}: reachable, knows the credentials"
    facts = {"url": trial.endpoint_url, "product": seen.product if seen is not None else ""}
    findings = [ok(detail, latency_ms=latency_ms, **facts)]
    if seen is not None and seen.ahead_s is not None and abs(seen.ahead_s) > SKEW_S:
        text = f"{_describe_skew(seen.ahead_s)} S3 refuses requests from 15 minutes on."
        findings.append(warn(text, "Synchronise both clocks by NTP.", target="clock", ahead_s=round(seen.ahead_s)))
    return findings


def _describe_skew(ahead_s: float) -> str:
    side = "ahead of" if ahead_s > 0 else "behind"
    return f"The clock of S3 is {abs(ahead_s):.0f} s {side} that of this machine."


async def check_bucket(context: Context) -> list[Finding]:
    """List a source bucket, and read the first byte of its first object."""
    if context.bucket is None:
        return [not_configured("No source bucket was named.", "Add --bucket NAME/PREFIX to check one.")]
    if context.has_failed("s3"):
        return [skip("because 's3' is not ok")]
    settings = context.settings
    bucket, _, prefix = context.bucket.removeprefix("s3://").partition("/")
    trial = await in_thread(lambda: S3Trial(settings.s3, ca_file=settings.tls.ca_file))
    ref = await in_thread(lambda: trial.find_object(bucket, prefix))
    if ref is None:
        detail = f"s3://{bucket}/{prefix} can be listed, and has no object"
        return [warn(detail, "Check the prefix; nothing would be ingested.")]
    try:
        await in_thread(lambda: trial.read_begin(ref))
    except ObjectError as error:
        return [fail(error.message, f"Allow s3:GetObject on s3://{bucket}/{prefix}*.", code=error.code)]
    return [ok(f"s3://{bucket}/{prefix} can be listed and read")]


async def check_state(context: Context) -> list[Finding]:
    """Do with small values of random names what jobs do, and remove them."""
    settings = context.settings
    if not settings.state_url:
        return [
            fail(
                "INGEST_STATE_URL is not set; no job can run.",
                "Set INGEST_STATE_URL to s3://bucket/prefix.",
                code="state_not_configured",
            )
        ]
    if settings.state_url.startswith("s3://") and context.has_failed("s3"):
        return [skip("because 's3' is not ok")]
    store = open_state_store(settings)
    _, latency_ms = await timed(lambda: in_thread(lambda: store.get("health")))
    if context.read_only:
        return [ok(f"{store.url}: can be read; writes were not tried", latency_ms=latency_ms)]
    await in_thread(lambda: try_operations(store, ""))
    await in_thread(lambda: remove_left_behind(store, ""))
    tried = "list, read, write, replace, delete, conditional writes"
    if isinstance(store, S3StateStore):
        await in_thread(lambda: store.try_upload_in_parts(make_trial_path("")))
        tried += ", upload in parts"
        return [ok(f"{store.url}: {tried}", latency_ms=latency_ms, url=store.url)]
    findings = [ok(f"{store.url}: {tried}", latency_ms=latency_ms, url=store.url)]
    if context.role is Role.SERVICE and (settings.ray.address or settings.spark.namespace):
        hint = "Set INGEST_STATE_URL to s3://bucket/prefix, unless every node mounts this directory."
        findings.append(
            warn("The state store is a directory of this machine; workers need it too.", hint, target="place")
        )
    return findings
