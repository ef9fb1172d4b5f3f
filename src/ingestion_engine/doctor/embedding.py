"""The embedder: every Ollama server, or the gateways in front of them."""

from __future__ import annotations

from collections.abc import Sequence

from ingestion_engine.adapters.ollama.models import ModelTable
from ingestion_engine.adapters.ollama.survey import ServerReport, Survey
from ingestion_engine.doctor.context import Context, Role
from ingestion_engine.doctor.findings import Finding, fail, fail_by, not_configured, ok, skip
from ingestion_engine.domain.errors import TlsFailed
from ingestion_engine.runtime.server_urls import hide_credentials

SHOWN_DIGITS = 12
"""Digits of a digest that are shown, as `ollama list` does."""

_OLLAMA_HINT = "Start `ollama serve` there, or correct INGEST_OLLAMA__URLS."
_GATEWAY_HINT = "Start `ingest gateway` there, or correct INGEST_GATEWAY__URL."
_BEHIND_HINT = "Run `ingest doctor --role gateway` where the gateway runs: a server behind it does not answer."


async def check_ollama(context: Context) -> list[Finding]:
    """Have every server embed one text with the default model, and compare what they serve."""
    settings = context.settings
    if settings.gateway.url and context.role is not Role.GATEWAY:
        hint = "Run `ingest doctor --role gateway` where the gateway runs to check the servers."
        return [skip("requests go through the gateway", hint)]
    return await _survey(context, settings.ollama.urls, service="ollama", hint=_OLLAMA_HINT)


async def check_gateway(context: Context) -> list[Finding]:
    """Embed one text through every gateway with the default model, and compare what they serve."""
    urls = context.settings.gateway.url
    if not urls:
        return [not_configured("The Ollama servers are used directly.", "Set INGEST_GATEWAY__URL to use a gateway.")]
    return await _survey(context, urls, service="gateway", hint=_GATEWAY_HINT)


async def _survey(context: Context, urls: Sequence[str], *, service: str, hint: str) -> list[Finding]:
    settings = context.settings
    model = settings.ollama.model
    survey = Survey(urls, service=service, ca_file=settings.tls.ca_file)
    try:
        reports, unresolved = await survey.inspect(model)
    finally:
        await survey.close()
    findings = [
        fail(f"The host name in {hide_credentials(url)!r} does not resolve.", hint, target=url) for url in unresolved
    ]
    reference = _choose_reference(reports, model)
    findings += [_judge(report, reference, hint=hint) for report in reports]
    return findings


def _choose_reference(reports: Sequence[ServerReport], model: str) -> str | None:
    """Return the digest that requests get: that of most servers, as the embedder chooses it. Pure."""
    table = ModelTable()
    table.set_order(report.url for report in reports)
    for report in reports:
        table.note(report.url, report.digests)
    return table.choose_reference(model)


def _judge(report: ServerReport, reference: str | None, *, hint: str) -> Finding:
    """Return the result about one server. Pure."""
    error, info = report.error, report.model
    facts = {
        "version": report.version,
        "model": info.name if info is not None else None,
        "digest": info.digest if info is not None else None,
        "dimension": info.dimension if info is not None else None,
        "context_length": info.context_length if info is not None else None,
        "embed_ms": report.embed_ms,
        **({"servers": list(report.peers)} if report.peers is not None else {}),
    }
    if error is not None:
        if report.peers is not None:
            hint = _BEHIND_HINT
        elif report.latency_ms is not None and not isinstance(error, TlsFailed):
            hint = "Check this server's log."
        return fail_by(error, hint, target=report.url, **facts)
    assert info is not None
    if reference is not None and info.digest != reference:
        return fail(
            f"{info.name} has digest {info.digest[:SHOWN_DIGITS]}, most servers have {reference[:SHOWN_DIGITS]}: this "
            "server is not used.",
            f"Run `ollama pull {info.name}` on this server, or on all others.",
            target=report.url,
            code="model_digest_differs",
            **facts,
        )
    context = f", context of {info.context_length} tokens" if info.context_length is not None else ""
    behind = f", servers behind it: {len(report.peers)}" if report.peers is not None else ""
    return ok(
        f"version {report.version}, {info.name}@{info.digest[:SHOWN_DIGITS]}, {info.dimension} dimensions{context}, "
        f"one text in {report.embed_ms:.0f} ms{behind}",
        target=report.url,
        latency_ms=report.latency_ms,
        **facts,
    )
