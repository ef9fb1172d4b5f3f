"""This process and its machine: settings, versions, authorities, temporary files, API keys."""

from __future__ import annotations

import datetime as dt
import getpass
import os
import platform
import shutil
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ingestion_engine import __version__
from ingestion_engine.doctor.context import Context, Role, in_thread
from ingestion_engine.doctor.findings import Finding, fail, not_configured, ok, warn
from ingestion_engine.runtime.host_names import is_loopback
from ingestion_engine.runtime.settings import SettingsError, list_variables
from ingestion_engine.runtime.timestamps import utc_now

EXPIRES_SOON: Final = dt.timedelta(days=30)
"""Remaining validity of an authority below which it is reported (the usual interval of renewals)."""

TEMP_TRIAL_BYTES: Final = 64 * 1024
OBJECTS_AT_ONCE: Final = 2
"""Objects that one worker process parses at the same time (``pipeline.parsing.process.pool.AT_ONCE``)."""
BYTES_PER_TEXT_BYTE: Final = 2
"""Temporary files of an object, in bytes per byte of its text (``pipeline.spool``); chunks and vectors come on top."""

_MIB: Final = 1024 * 1024


async def check_settings(context: Context) -> list[Finding]:
    """Report where the settings come from; that they can be read is known already."""
    variables = list_variables()
    files = f", {len(variables.files)} of INGEST_SECRETS_DIR" if variables.files else ""
    findings = [
        ok(
            f"{len(variables.environment)} variables of the environment{files}",
            environment=list(variables.environment),
            files=list(variables.files),
        )
    ]
    if variables.unknown:
        names = ", ".join(variables.unknown)
        findings.append(
            warn(
                f"No such settings, ignored: {names}.",
                "Correct the names, or remove these variables.",
                target="unknown",
                unknown=list(variables.unknown),
            )
        )
    return findings


def refuse_settings(error: SettingsError) -> Finding:
    """Return the result for settings that cannot be read."""
    hint = "Correct the variables named, then run this command again; docs/operations.md lists all of them."
    return fail(str(error), hint, code="settings")


async def check_runtime(context: Context) -> list[Finding]:
    """Report versions, and the user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in /etc/passwd
        user = ""
    uid = os.getuid() if hasattr(os, "getuid") else None
    system = f"{platform.system()} {platform.machine()}"
    python = platform.python_version()
    who = f"user {user or uid}" + (f" ({uid})" if user and uid is not None else "")
    return [
        ok(
            f"ingestion-engine {__version__}, Python {python}, {system}, {who}",
            version=__version__,
            python=python,
            system=system,
            uid=uid,
        )
    ]


async def check_tls(context: Context) -> list[Finding]:
    """Read the authorities of INGEST_TLS__CA_FILE, and when they expire."""
    path = context.settings.tls.ca_file
    if path is None:
        return [
            not_configured(
                "The usual authorities are trusted.",
                "Set INGEST_TLS__CA_FILE for servers with an authority of your own.",
            )
        ]
    found = await in_thread(lambda: ssl.create_default_context(cafile=str(path)).get_ca_certs())
    now = dt.datetime.now(dt.UTC)
    ends = {_name(entry): _read_end(entry) for entry in found}
    detail = f"{len(found)} authorities in {str(path)!r}"
    findings = [ok(detail, authorities=len(found))]
    for name, end in sorted(ends.items()):
        if end < now + EXPIRES_SOON:
            state = "has expired" if end < now else "expires"
            hint = "Put the authority's new certificate into the file of INGEST_TLS__CA_FILE."
            text = f"The authority {name!r} {state} on {end:%Y-%m-%d}."
            findings.append(fail(text, hint, target=name) if end < now else warn(text, hint, target=name))
    if all(end < now for end in ends.values()):
        return findings[1:]
    return findings


def _name(entry: Mapping[str, object]) -> str:
    subject = entry.get("subject")
    names = {part[0]: part[1] for group in subject for part in group} if isinstance(subject, tuple) else {}
    return str(names.get("commonName") or names.get("organizationName") or entry.get("serialNumber"))


def _read_end(entry: Mapping[str, object]) -> dt.datetime:
    return dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(entry["notAfter"])), dt.UTC)


async def check_temp(context: Context) -> list[Finding]:
    """Write a temporary file, and compare the free space with what large objects need."""

    def measure() -> tuple[Path, int]:
        folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * TEMP_TRIAL_BYTES)
            file.flush()
        return folder, shutil.disk_usage(folder).free

    try:
        folder, free = await in_thread(measure)
    except OSError as error:
        hint = "Set TMPDIR to a directory that this user can write; mount a volume there if the root is read-only."
        return [fail(f"No temporary file can be written: {error.strerror or error}.", hint, code="temp_files_failed")]
    facts: dict[str, Any] = {"directory": str(folder), "free_bytes": free}
    if context.role is Role.WORKER:
        needed = OBJECTS_AT_ONCE * BYTES_PER_TEXT_BYTE * context.settings.worker.decompressed_max_bytes
        if free < needed:
            return [
                warn(
                    f"{str(folder)!r} has {free // _MIB:,} MiB free; objects of the maximum size need "
                    f"{needed // _MIB:,} MiB per process.",
                    "Set TMPDIR to a larger disk, or lower INGEST_WORKER__DECOMPRESSED_MAX_BYTES.",
                    needed_bytes=needed,
                    **facts,
                )
            ]
    return [ok(f"{str(folder)!r} can be written, {free // _MIB:,} MiB free", **facts)]


_KEY_ENDS_SOON: Final = dt.timedelta(days=14)
"""Time before a key expires from which it is mentioned: long enough to change its clients."""


async def check_api_keys(context: Context) -> list[Finding]:
    """Read the file of API keys; without one, everybody who reaches the service may do everything."""
    api = context.settings.api
    path = api.keys_file
    if path is not None:
        from ingestion_engine.access.keys.file import KeyRing

        try:
            entries = (await in_thread(lambda: KeyRing(path))).entries
        except SettingsError as error:
            return [fail(str(error), "Correct the file; docs/operate/access.md describes its form.", code="settings")]
        now = utc_now()
        valid = [entry for entry in entries if not entry.ends_by(now)]
        facts: dict[str, Any] = {"keys": len(valid), "ended": len(entries) - len(valid)}
        if not valid and not api.database_keys:
            text = f"{str(path)!r} has no key that counts: every request with a key is refused."
            return [warn(text, "Add a key: `ingest keys create NAME`.", **facts)]
        soon = [entry.name for entry in valid if entry.ends_by(now + _KEY_ENDS_SOON)]
        if soon:
            text = f"Keys in {str(path)!r} expire within {_KEY_ENDS_SOON.days} days: {', '.join(soon[:5])}."
            return [warn(text, "Create new keys: `ingest keys create NAME`.", **facts)]
        return [ok(f"{len(valid)} keys in {str(path)!r}", **facts)]
    if api.database_keys:
        return [ok("The keys are in the database; `ingest keys list` shows them.")]
    if context.settings.oidc.issuer is not None:
        hint = "Set INGEST_API__KEYS_FILE to accept API keys as well."
        return [not_configured("Callers have tokens of an OpenID Connect provider.", hint)]
    hint = "Set INGEST_API__KEYS_FILE to a file with API keys: `ingest keys create NAME --file PATH` makes it."
    if is_loopback(api.host):
        return [not_configured(f"The service listens on {api.host} only; no key is required.", hint)]
    if not api.allow_anonymous:
        text = f"The service would listen on {api.host} without any authentication, and refuses to start."
        return [fail(text, f"{hint} INGEST_API__ALLOW_ANONYMOUS=true serves everybody.", code="settings")]
    return [warn(f"The service listens on {api.host} and requires no key: whoever reaches it may do everything.", hint)]
