"""The OpenID Connect provider: its documents, its keys, and the rules for its tokens."""

from __future__ import annotations

from ingestion_engine.access.oidc.connect import open_oidc
from ingestion_engine.doctor.context import Context, timed
from ingestion_engine.doctor.findings import Finding, fail, not_configured, ok, warn
from ingestion_engine.runtime.settings import SettingsError


async def check_provider(context: Context) -> list[Finding]:
    """Read the discovery document and the keys as the service does, and the rules. Two requests."""
    settings = context.settings
    try:
        oidc = open_oidc(settings)
    except SettingsError as error:
        return [fail(str(error), "Correct the rules; docs/operate/oidc.md describes their form.", code="settings")]
    if oidc is None:
        return [not_configured("Callers have no tokens of a provider.", "Set INGEST_OIDC__ISSUER to use one.")]
    try:
        keys, latency_ms = await timed(oidc.provider.examine)
    finally:
        await oidc.close()
    issuer = settings.oidc.issuer
    if not keys:
        text = f"{issuer} publishes no key by which tokens could be checked."
        return [fail(text, "Set another algorithm at the provider: RS256 or ES256.", issuer=issuer)]
    if not oidc.rules.rules:
        text = f"{issuer} can be read, but without rules its tokens allow nothing."
        return [warn(text, "Set INGEST_OIDC__RULES or INGEST_OIDC__RULES_FILE.", issuer=issuer, keys=keys)]
    return [ok(f"{issuer}: {keys} keys, {len(oidc.rules.rules)} rules", latency_ms=latency_ms, keys=keys)]
