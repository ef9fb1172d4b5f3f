"""Commands that make, list, rotate and revoke API keys, in the file of keys or in the service's database.

They work on the file or the database themselves, not over HTTP: the first key cannot be made with a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ingestion_engine.cli.extras import requires_extra
from ingestion_engine.cli.output import ExitCode, err, print_error, write_json, write_table
from ingestion_engine.cli.root import Json
from ingestion_engine.domain.errors import DatabaseUnavailable, SubmissionError
from ingestion_engine.runtime.settings import Settings, load_settings
from ingestion_engine.runtime.timestamps import Moment, format_seconds, parse_timestamp, utc_now

if TYPE_CHECKING:
    from ingestion_engine.access.keys.entries import ApiKey
    from ingestion_engine.access.keys.management import KeyStorage, NewKey

SCOPES: Final = ("search", "read", "submit", "delete", "admin")
"""As ``access.scopes``, which is imported only by the commands that need it."""

_DURATION: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

keys = typer.Typer(help="Make, list, rotate and revoke API keys.", no_args_is_help=True)

File = Annotated[
    Path | None, typer.Option("--file", help="File of keys. Default: INGEST_API__KEYS_FILE.", show_default=False)
]
Database = Annotated[
    bool, typer.Option("--database", help="Keys of the service's database. Default with INGEST_API__DATABASE_KEYS.")
]
Which = Annotated[str, typer.Argument(metavar="KEY", help="Name or id of the key.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (create, list_all, rotate, revoke):
        keys.command("list" if command is list_all else None)(command)
    app.add_typer(keys, name="keys")


def create(
    name: Annotated[str, typer.Argument(help="Name of the key; it owns the jobs submitted with it.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What the key may do: {', '.join(SCOPES)}. Repeatable. Default: search and read."),
    ] = None,
    bucket: Annotated[
        list[str] | None, typer.Option(help="Glob of buckets that the key may use. Repeatable. Default: all.")
    ] = None,
    collection: Annotated[
        list[str] | None, typer.Option(help="Glob of collections that the key may use. Repeatable. Default: all.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When the key ends: 90d, 12h, or 2027-01-31T00:00:00Z. Default: never.")
    ] = None,
    file: File = None,
    database: Database = False,
    json: Json = False,
) -> int:
    """Make a key and print it, this once: only its hash is stored.

    ingest keys create docs-team --scope search --scope read --collection 'handbook*' --expires 90d
    """
    scopes = _read_scopes(scope or ["search", "read"])
    expires_at = None if expires is None else _read_end(expires)

    async def make(home: _Home) -> NewKey:
        from ingestion_engine.access.keys.management import create_key, refuse_taken

        for other in home.others:
            refuse_taken(await other.list_keys(), name)
        return await create_key(
            home.storage,
            name,
            scopes=scopes,
            buckets=tuple(bucket or ["*"]),
            collections=tuple(collection or ["*"]),
            expires_at=expires_at,
        )

    def show(home: _Home, made: NewKey) -> None:
        _record("create", made.entry)
        _show_new(made, home, json=json)

    return _run(make, show, file=file, database=database)


def list_all(file: File = None, database: Database = False, json: Json = False) -> int:
    """List all keys, without their secrets."""

    async def read(home: _Home) -> list[ApiKey]:
        return list(await home.storage.list_keys())

    def show(_: _Home, entries: list[ApiKey]) -> None:
        if json:
            for entry in entries:
                write_json(_describe(entry))
            return
        names = ("name", "id", "state", "scopes", "buckets", "collections", "expires_at")
        rows = [[_join(_describe(entry)[name]) for name in names] for entry in entries]
        write_table([name.upper() for name in names], rows)

    return _run(read, show, file=file, database=database)


def rotate(
    which: Which,
    overlap: Annotated[
        str, typer.Option(help="How long the former secret still counts: 24h, 7d, 0s to end it at once.")
    ] = "24h",
    file: File = None,
    database: Database = False,
    json: Json = False,
) -> int:
    """Give a key a new secret and print it; the former one counts until --overlap has passed.

    Change all clients meanwhile. After a leak, use --overlap 0s.
    """
    kept_for = _read_duration(overlap, "--overlap")

    async def make(home: _Home) -> NewKey:
        from ingestion_engine.access.keys.management import rotate_key

        return await rotate_key(home.storage, which, overlap=kept_for)

    def show(home: _Home, made: NewKey) -> None:
        _record("rotate", made.entry)
        _show_new(made, home, json=json)

    return _run(make, show, file=file, database=database)


def revoke(which: Which, file: File = None, database: Database = False, json: Json = False) -> int:
    """Revoke a key for good. Requests with it are refused, and streams that it has opened end, within 5 s.

    Its jobs go on; its name cannot be used again.
    """

    async def end(home: _Home) -> ApiKey:
        from ingestion_engine.access.keys.management import revoke_key

        return await revoke_key(home.storage, which)

    def show(home: _Home, entry: ApiKey) -> None:
        _record("revoke", entry)
        if json:
            write_json(_describe(entry))
        else:
            err.print(f"Key {entry.name!r} in {home.storage.place} is revoked.")

    return _run(end, show, file=file, database=database)


class _Home:
    """Where the keys of a command are, and where the service reads others."""

    def __init__(self, storage: KeyStorage, others: list[KeyStorage]) -> None:
        self.storage = storage
        self.others = others


def _run(
    act: Callable[[_Home], Awaitable[Any]], show: Callable[[_Home, Any], None], *, file: Path | None, database: bool
) -> int:
    """Act on the keys that the options or the settings name, and show the result."""
    if file is not None and database:
        raise typer.BadParameter("It cannot be combined with --file.", param_hint="--database")
    settings = load_settings()
    with requires_extra("api", "`ingest keys`"):
        import ingestion_engine.access.keys.management
        import ingestion_engine.services.job_store  # noqa: F401 - only whether they can be imported
    path, in_database = (file or settings.api.keys_file), settings.api.database_keys
    if file is None and not database:
        if path is not None and in_database:
            hint = "Add --file PATH or --database."
            return print_error(
                "Both INGEST_API__KEYS_FILE and INGEST_API__DATABASE_KEYS are set.",
                code="place_unclear",
                hint=hint,
                exit_code=ExitCode.USAGE,
            )
        if path is None and not in_database:
            hint = "Add --file PATH or --database, or set INGEST_API__KEYS_FILE or INGEST_API__DATABASE_KEYS."
            return print_error("No place for keys is named.", code="place_unclear", hint=hint, exit_code=ExitCode.USAGE)
    use_database = database or (file is None and path is None)

    async def work() -> None:
        async with _open_home(settings, path=None if use_database else path) as home:
            show(home, await act(home))

    try:
        asyncio.run(work())
    except DatabaseUnavailable as error:
        return print_error(error.message, code=error.code, hint=error.hint, exit_code=ExitCode.UNREACHABLE)
    except SubmissionError as error:
        return print_error(error.message, code=error.code, hint=error.hint, exit_code=ExitCode.REFUSED)
    return int(ExitCode.SUCCEEDED)


@contextlib.asynccontextmanager
async def _open_home(settings: Settings, *, path: Path | None) -> AsyncIterator[_Home]:
    """Open the file of keys, or without a path the database; the other one too, where the service uses it."""
    from ingestion_engine.access.keys.file import KeyFile
    from ingestion_engine.access.keys.table import KeyDatabase
    from ingestion_engine.services.job_store import JobStore
    from ingestion_engine.services.key_store import KeyStore

    file = None if path is None else KeyFile(path)
    if file is not None and not settings.api.database_keys:
        yield _Home(file, [])
        return
    store = await JobStore.open(settings.sqlalchemy_url, ca_file=settings.tls.ca_file, settings=settings.database)
    try:
        table = KeyDatabase(KeyStore(store.database))
        if file is not None:
            yield _Home(file, [table])
        else:
            configured = settings.api.keys_file
            yield _Home(table, [] if configured is None else [KeyFile(configured)])
    finally:
        await store.close()


def _record(command: str, entry: ApiKey) -> None:
    """Append a change to the JSON lines of the audit log, where they are a file; the table has the database's own."""
    path = load_settings().audit.file
    if path is None:
        return
    from ingestion_engine.access.keys.file import dump_entry
    from ingestion_engine.services.audit.entries import Redactor
    from ingestion_engine.services.audit.lines import AuditLines
    from ingestion_engine.services.key_store import describe_change

    lines = AuditLines(path)
    lines.write(Redactor().clean(describe_change(command, entry.name, dump_entry(entry))).line())
    lines.close()
    if lines.lost:
        err.print(f"warning: INGEST_AUDIT__FILE {str(path)!r} cannot be written; the change is not recorded there.")


def _show_new(made: NewKey, home: _Home, *, json: bool) -> None:
    """Print a new key alone on standard output, and everything about it on standard error."""
    if json:
        write_json({**_describe(made.entry), "key": made.key})
        return
    entry = _describe(made.entry)
    until = f" It expires at {entry['expires_at']}." if entry["expires_at"] else ""
    err.print(f"Key {entry['name']!r} ({entry['id']}) in {home.storage.place}: {_join(entry['scopes'])}.{until}")
    for secret in made.entry.secrets[1:]:
        if secret.expires_at is not None:
            err.print(f"The former secret counts until {format_seconds(secret.expires_at)}.")
    err.print("This is the only time that the key is shown:")
    typer.echo(made.key)


def _describe(entry: ApiKey) -> dict[str, Any]:
    """Return a key without its secrets. Pure but for the time."""
    now = utc_now()
    state = "valid"
    if entry.revoked_at is not None:
        state = "revoked"
    elif entry.expires_at is not None and entry.expires_at <= now:
        state = "expired"
    elif sum(secret.expires_at is None or secret.expires_at > now for secret in entry.all_secrets) > 1:
        state = "rotating"
    return {
        "name": entry.name,
        "id": entry.id,
        "state": state,
        "scopes": [scope for scope in SCOPES if scope in entry.grants],
        "buckets": list(entry.buckets),
        "collections": list(entry.collections),
        "created_at": _show_moment(entry.created_at),
        "expires_at": _show_moment(entry.expires_at),
        "revoked_at": _show_moment(entry.revoked_at),
        "secrets": [
            {"created_at": _show_moment(secret.created_at), "expires_at": _show_moment(secret.expires_at)}
            for secret in entry.all_secrets
        ],
    }


def _show_moment(moment: Moment | None) -> str | None:
    return None if moment is None else format_seconds(moment)


def _join(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list) else value


def _read_scopes(names: list[str]) -> frozenset[Any]:
    with requires_extra("api", "`ingest keys`"):
        from ingestion_engine.access.scopes import Scope
    parts = {part for name in names for part in name.split(",")}
    if unknown := parts - set(SCOPES):
        raise typer.BadParameter(f"{min(unknown)!r} is none of {', '.join(SCOPES)}.", param_hint="--scope")
    return frozenset(map(Scope, parts))


def _read_duration(text: str, option: str) -> dt.timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter("Give a number and a unit: 30s, 15m, 24h, 90d, 2w.", param_hint=option)
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})


def _read_end(text: str) -> Moment:
    with contextlib.suppress(ValueError):
        moment = parse_timestamp(text)
        if moment <= utc_now():
            raise typer.BadParameter("That moment has passed.", param_hint="--expires")
        return moment
    return utc_now().replace(microsecond=0) + _read_duration(text, "--expires")
