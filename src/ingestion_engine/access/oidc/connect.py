"""Composes what belongs to the provider of the settings."""

from __future__ import annotations

from dataclasses import dataclass

from ingestion_engine.access.oidc.code_flow import CodeFlow
from ingestion_engine.access.oidc.log_outs import LogOuts
from ingestion_engine.access.oidc.provider import TIMEOUT_S, Provider
from ingestion_engine.access.oidc.rules import RuleBook
from ingestion_engine.access.oidc.source import TokenSource
from ingestion_engine.adapters.transport import HttpClient
from ingestion_engine.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Oidc:
    """The provider, and what uses it."""

    provider: Provider
    rules: RuleBook
    tokens: TokenSource
    flow: CodeFlow | None
    """Log-in of people; None without ``INGEST_OIDC__CLIENT_ID``."""
    log_outs: LogOuts | None
    """Their log-outs; None without ``INGEST_OIDC__CLIENT_ID``."""

    async def close(self) -> None:
        """Release connections."""
        await self.provider.close()


def open_oidc(settings: Settings) -> Oidc | None:
    """Return the provider of the settings; None without an issuer. No request is made.

    Raises:
        SettingsError: a rule is invalid, or their file cannot be read.
    """
    oidc = settings.oidc
    if oidc.issuer is None:
        return None
    rules = RuleBook(oidc)
    http = HttpClient("oidc", connect_timeout_s=TIMEOUT_S, ca_file=settings.tls.ca_file, shows_waits=False)
    provider = Provider(oidc, http)
    return Oidc(
        provider=provider,
        rules=rules,
        tokens=TokenSource(oidc, provider, rules),
        flow=None if oidc.client_id is None else CodeFlow(oidc, provider),
        log_outs=None if oidc.client_id is None else LogOuts(oidc, provider),
    )
