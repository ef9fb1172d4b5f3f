"""The database of jobs: its URL, its connections and its clock; its errors become ours here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import difflib
import os
import shlex
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ingestion_engine.domain.errors import DatabaseUnavailable, FatalError
from ingestion_engine.runtime.settings import DatabaseSettings
from ingestion_engine.runtime.telemetry import get_logger

BUSY_TIMEOUT_MS: Final = 5_000
"""Time that SQLite waits for another writer; the longest transaction here takes milliseconds."""

CONNECT_TIMEOUT_S: Final = 5.0
"""Time for a new connection to PostgreSQL, unless the URL has ``connect_timeout``; a request waits for it."""

STATEMENT_TIMEOUT_S: Final = 10.0
"""Time after which a statement is given up: a server behind a dead connection never answers. Statements take
milliseconds; only migrations have no limit."""

IDLE_MS: Final = 10_000
"""Time after which PostgreSQL ends a transaction whose process does nothing any more: it may have been suspended."""

_ASYNC_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}
_ASYNCPG: Final = "postgresql+asyncpg"
_VARIABLE: Final = "INGEST_DATABASE_URL"

_KEPT: Final = frozenset(
    {
        "host",
        "port",
        "user",
        "password",
        "dbname",
        "passfile",
        "service",
        "servicefile",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
    }
)
"""Parameters of libpq that asyncpg reads from a URL as libpq does (``asyncpg/connect_utils.py`` of 0.32)."""
_FILES: Final = frozenset({"sslcert", "sslkey", "sslrootcert", "sslcrl"})
_SETTINGS: Final = {"application_name": "application_name", "fallback_application_name": "application_name"}
"""Parameters of libpq that are settings of the server."""
_POOLER: Final = {"pgbouncer": "true", "statement_cache_size": "0", "prepared_statement_cache_size": "0"}
"""Parameters, with their value, that announce a pooler in transaction mode: Prisma's, which providers put into the URLs
of their poolers, and those of asyncpg and SQLAlchemy."""
_AUTHORITIES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Where Debian, Red Hat, and Alpine and macOS keep the public authorities."""
_WITHOUT_EFFECT: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"), frozenset()),
    **dict.fromkeys(("tcp_user_timeout", "sslcompression", "sslsni", "load_balance_hosts"), frozenset()),
    "client_encoding": frozenset({"utf8", "utf-8", "unicode", "auto"}),
    "channel_binding": frozenset({"disable", "prefer", "require"}),
    "gssencmode": frozenset({"disable", "prefer"}),
}
"""Parameters of libpq that asyncpg lacks, and the values with which nothing is lost by leaving them out; an empty set
means any value."""
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_STATEMENT_CLASSES: Final = frozenset({"0A", "21", "22", "23", "42", "44"})
"""Classes of SQLSTATEs that are the fault of a statement or of its values, not of the database."""
_PERMANENT_STATES: Final = frozenset({"42501", "42P01", "3F000"})
"""SQLSTATEs of errors of statements that are the database's fault all the same: permission denied, table or schema
missing (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

_READ_ONLY: Final = "25006"
"""SQLSTATE of a change on a server that allows none."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A database URL, understood."""

    url: str
    """URL for SQLAlchemy, with an asynchronous driver."""
    dsn: str | None = None
    """URL for asyncpg, with the parameters that it reads itself; None for other drivers."""
    options: Mapping[str, Any] | None = None
    """Further arguments of ``asyncpg.connect``."""
    pooled: bool = False
    """True when a pooler gives every transaction another connection to the server."""
    hosts: str = ""
    """All hosts with their ports; empty for other drivers and for a socket."""


def with_async_driver(url: str) -> str:
    """Return a database URL with an asynchronous driver, unless it names one already. Pure."""
    scheme, separator, rest = url.partition("://")
    return f"{_ASYNC_DRIVERS.get(scheme, scheme)}{separator}{rest}"


def parse_database_url(url: str, *, ca_file: Path | None = None) -> DatabaseAddress:
    """Return the address in a database URL, with the parameters of libpq translated for asyncpg. Pure.

    Args:
        url: The URL.
        ca_file: Authorities for ``sslmode`` verify-ca and verify-full without ``sslrootcert``; None means libpq's file.

    Raises:
        FatalError: "database_url_invalid": it is no URL of a database, or has an unknown parameter; the message
            contains no part of the URL that could be a password.
    """
    url = with_async_driver(url)
    base, _, query = url.partition("?")
    scheme, separator, rest = base.partition("://")
    place, slash, path = rest.partition("/")
    account, at, hosts = place.rpartition("@")
    account = account.replace("@", "%40")  # `user@server`, as some providers name accounts
    # SQLAlchemy knows one host with a port; asyncpg connects to all.
    first = f"{scheme}{separator}{account}{at}{hosts.partition(',')[0]}{slash}{path}"
    parsed = _parse_supported(first if scheme == _ASYNCPG else url)
    if parsed.drivername != _ASYNCPG:
        return DatabaseAddress(url)
    pooled = binding = False
    kept: dict[str, str] = {}
    server_settings = {"application_name": "ingestion-engine"}
    options: dict[str, Any] = {"timeout": CONNECT_TIMEOUT_S}
    for given, value in parse_qsl(query, keep_blank_values=True):
        name = "sslmode" if given == "ssl" else given  # SQLAlchemy's own name for it
        if name == "sslmode" and value not in _SSL_MODES:
            raise _invalid(f"{given!r} must be one of {', '.join(_SSL_MODES)}")
        if name in _KEPT:
            kept[name] = value
        elif name in _SETTINGS:
            server_settings[_SETTINGS[name]] = value
        elif name == "options":
            server_settings |= _read_options(value)
        elif name in _POOLER:
            pooled = pooled or value.lower() == _POOLER[name]
        elif name == "connect_timeout":
            options["timeout"] = _read_seconds(name, value) or None  # 0 means no limit, as in libpq
        elif name in _WITHOUT_EFFECT:
            allowed = _WITHOUT_EFFECT[name]
            binding = binding or (name == "channel_binding" and value == "require")
            if allowed and value.lower() not in allowed:
                raise _invalid(f"the driver asyncpg supports {name!r} only as {' or '.join(sorted(allowed))}")
        else:
            known = sorted(
                _KEPT | _SETTINGS.keys() | _POOLER.keys() | _WITHOUT_EFFECT.keys() | {"options", "connect_timeout"}
            )
            near = difflib.get_close_matches(name, known, 1)
            raise _invalid(f"the parameter {given!r} is unknown{f' (did you mean {near[0]!r}?)' if near else ''}")
    if binding and kept.get("sslmode") != "verify-full":
        raise _invalid(
            "the driver asyncpg lacks 'channel_binding=require'; with sslmode=verify-full, which proves the server's "
            "identity as well, it is not needed"
        )
    if ca_file is not None and kept.get("sslmode", "").startswith("verify-"):
        kept.setdefault("sslrootcert", str(ca_file))
    if kept.get("sslrootcert") == "system":
        kept |= {"sslmode": "verify-full", "sslrootcert": _find_public_authorities()}
    suffix = f"?{urlencode(kept)}" if kept else ""
    dsn = f"postgresql://{account}{at}{hosts}{slash}{path}{suffix}"
    passed = {**options, "server_settings": server_settings}
    return DatabaseAddress(first, dsn, passed, pooled=pooled, hosts=hosts)


def _parse_supported(url: str) -> sa.URL:
    """Return a URL of PostgreSQL or SQLite, parsed. Raises FatalError, "database_url_invalid", for any other text."""
    try:
        parsed = sa.engine.make_url(url)
        if parsed.get_backend_name() not in ("postgresql", "sqlite"):
            raise ValueError(parsed.get_backend_name())
        parsed.get_dialect()
    except (exc.ArgumentError, exc.NoSuchModuleError, ValueError) as error:
        raise _invalid("it is not the URL of a database that is supported") from error
    return parsed


def _check_files(address: DatabaseAddress) -> None:
    """Return when the files of TLS that a URL names can be read: the error of OpenSSL names none of them."""
    for name, value in parse_qsl((address.dsn or "").partition("?")[2]):
        if name in _FILES and not os.access(value, os.R_OK):
            raise _invalid(f"{name!r} names the file {value!r}, which cannot be read")


def _find_public_authorities() -> str:
    """Return the file of the system's authorities, for ``sslrootcert=system``."""
    candidates = (ssl.get_default_verify_paths().cafile, *_AUTHORITIES)
    for file in candidates:
        if file is not None and os.access(file, os.R_OK):
            return file
    raise _invalid("'sslrootcert=system' finds no file of public authorities; name one instead of 'system'")


def _invalid(reason: str) -> FatalError:
    hint = (
        f"Set {_VARIABLE} to postgresql://user:password@host:5432/database?sslmode=require, or to "
        "sqlite:////path/jobs.db; percent-encode special characters of the password."
    )
    return FatalError("database_url_invalid", f"{_VARIABLE} is invalid: {reason}.", hint=hint)


def _read_seconds(name: str, value: str) -> float:
    try:
        return max(0.0, float(value))
    except ValueError:
        raise _invalid(f"{name!r} must be a number of seconds") from None


def _read_options(text: str) -> dict[str, str]:
    """Return the server settings in libpq's ``options``: ``-c name=value`` or ``--name=value``. Pure."""
    settings = {}
    words = iter(shlex.split(text))
    if text and not text.startswith("-") and "=" in text:
        return {"options": text}  # for the provider's proxy, for example `endpoint=...`
    for word in words:
        pair = next(words, "") if word == "-c" else word.removeprefix("--" if word.startswith("--") else "-c")
        name, equals, value = pair.partition("=")
        if not equals or not name or name.startswith("-"):
            raise _invalid("'options' must consist of -c name=value")
        settings[name] = value
    return settings


class Database:
    """Connections to the database of jobs. Safe to share by tasks of one event loop.

    Every error that means "the database is unavailable or refuses us" leaves as ``DatabaseUnavailable``. The begin and
    the end of an outage are one log line each, however many requests find it.

    Args:
        engine: SQLAlchemy's engine.
        clock: Monotonic seconds.
        pooled: Whether only a transaction has a connection of its own to the server.
    """

    def __init__(
        self, engine: AsyncEngine, clock: Callable[[], float] = time.monotonic, *, pooled: bool = False
    ) -> None:
        self.engine = engine
        self.place = _describe_place(engine.url)
        """Where it is, for messages; without user and password."""
        self._clock = clock
        self._pooled = pooled
        self._down_since: float | None = None
        # SQLite's own wait for the single writer is neither fair nor unlimited: under fifty submissions per second some
        # found the database locked after five seconds. So writers of this process take turns.
        self._turn = asyncio.Lock() if self.is_sqlite else contextlib.nullcontext()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        ca_file: Path | None = None,
        settings: DatabaseSettings | None = None,
        statement_timeout_s: float | None = STATEMENT_TIMEOUT_S,
    ) -> Database:
        """Return the database of a URL; no connection is made. Creates the directory of a SQLite file.

        Args:
            url: SQLAlchemy URL.
            ca_file: As for ``parse_database_url``.
            settings: Number and age of the connections to PostgreSQL; None means the defaults.
            statement_timeout_s: Time limit of a statement of PostgreSQL in seconds; None means no limit.

        Raises:
            FatalError: "database_url_invalid"; also for a file of TLS that cannot be read.
            DatabaseUnavailable: the directory of the SQLite file cannot be created.
        """
        address = parse_database_url(url, ca_file=ca_file)
        _check_files(address)
        parsed = sa.engine.make_url(address.url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:" and not parsed.database.startswith("file:"):
                try:
                    _make_private(Path(parsed.database))
                except OSError as error:
                    raise _make_unavailable(error, _describe_place(parsed)) from error
            engine = create_async_engine(address.url)
            event.listen(engine.sync_engine, "connect", _prepare_sqlite)
            return cls(engine)
        settings = settings or DatabaseSettings()
        options: dict[str, Any] = {
            "pool_pre_ping": True,
            "pool_size": settings.pool_size,
            "max_overflow": settings.max_overflow,
            "pool_timeout": settings.pool_timeout_s,
            "pool_recycle": settings.recycle_s or -1,
        }
        if address.dsn is not None:
            connecting = {**(address.options or {}), "command_timeout": statement_timeout_s}
            arguments: dict[str, Any] = {"async_creator_fn": _make_creator(address.dsn, connecting)}
            if address.pooled:
                # A statement without a name lives no longer than its transaction, as the server's connection does.
                connecting["statement_cache_size"] = 0
                arguments |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
            options["connect_args"] = arguments
        engine = create_async_engine(address.url, **options)
        event.listen(engine.sync_engine, "handle_error", _leave_replica)
        database = cls(engine, pooled=address.pooled)
        if address.hosts:
            database.place = f"at {address.hosts}"
        return database

    @property
    def is_down(self) -> bool:
        """True when the last request to the database found it unavailable. Without a request."""
        return self._down_since is not None

    @property
    def is_sqlite(self) -> bool:
        """True for SQLite, False for PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    def now(self, plus_s: float = 0.0) -> sa.ColumnElement[Any]:
        """Return the database's clock, plus a number of seconds, as an expression for statements. Pure."""
        if self.is_sqlite:
            # The format in which SQLAlchemy stores moments; %f has milliseconds.
            return sa.func.strftime("%Y-%m-%d %H:%M:%f000", "now", f"{plus_s:+.3f} seconds")
        # Not now(): that is the beginning of the transaction, which may have waited for another one.
        return sa.func.clock_timestamp(type_=sa.DateTime(timezone=True)) + dt.timedelta(seconds=plus_s)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for queries. Raises DatabaseUnavailable."""
        async with contextlib.AsyncExitStack() as exits:
            with self._watched(connecting=True):
                connection = await exits.enter_async_context(self.engine.connect())
            with self._watched():
                yield connection

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for statements that are durable one by one, each when it returns.

        PostgreSQL commits each by itself. A copy of the service that stands still, for example on a suspended machine,
        keeps its connections: in an open transaction it would keep the locks of what it has changed as well, and hold
        up all other copies.

        Raises:
            DatabaseUnavailable: as ``writing``.
            sqlalchemy.exc.IntegrityError: as ``writing``.
        """
        if self.is_sqlite or self._pooled:
            async with self.writing() as connection:
                yield connection
            return
        async with contextlib.AsyncExitStack() as exits:
            with self._watched(connecting=True):
                connection = await exits.enter_async_context(self.engine.connect())
            with self._watched():
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextlib.asynccontextmanager
    async def writing(self, *, idle_ms: int = IDLE_MS) -> AsyncIterator[AsyncConnection]:
        """Open a transaction for writing; durable at the end of the context. ``changing`` suits single statements.

        Args:
            idle_ms: Time after which PostgreSQL ends the transaction when this process does nothing any more.

        Raises:
            DatabaseUnavailable: nothing was written, except when only the answer to the commit was lost.
            sqlalchemy.exc.IntegrityError: a constraint refuses the values; nothing was written.
        """
        async with self._turn, contextlib.AsyncExitStack() as exits:
            with self._watched(connecting=True):
                connection = await exits.enter_async_context(self.engine.connect())
            with self._watched():
                if not self.is_sqlite:  # whatever the server's default is: a statement sees what others have committed
                    connection = await connection.execution_options(isolation_level="READ COMMITTED")
                async with connection.begin():
                    if not self.is_sqlite:  # by statement, because poolers refuse it as a parameter of the connection
                        await connection.execute(
                            sa.text(f"SET LOCAL idle_in_transaction_session_timeout = {idle_ms:d}")
                        )
                    yield connection

    def count_connections(self) -> dict[str, int]:
        """Return the connections of the pool that are in use, idle, and not made yet. Without a request.

        When nothing is idle or unopened, requests wait for a connection.
        """
        pool = self.engine.pool
        if not isinstance(pool, sa.QueuePool):
            return {}
        in_use, idle = pool.checkedout(), pool.checkedin()
        most = pool.size() + pool._max_overflow  # noqa: SLF001 - there is no public way to read what was given
        return {"in_use": in_use, "idle": idle, "unopened": max(0, most - in_use - idle)}

    async def ping(self) -> None:
        """Return when the database responds. One query. Raises DatabaseUnavailable."""
        async with self.reading() as connection:
            await connection.execute(sa.select(1))

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()

    aclose = close

    @contextlib.contextmanager
    def _watched(self, *, connecting: bool = False) -> Iterator[None]:
        """Turn errors of the database into DatabaseUnavailable; note when an outage begins and ends.

        Args:
            connecting: A connection is being made: then every error is one of the database.
        """
        try:
            yield
        except Exception as error:  # every other error than the database's is raised again
            if not (connecting or _is_outage(error)):
                raise
            unavailable = _make_unavailable(error, self.place)
            if self._down_since is None:
                self._down_since = self._clock()
                _log.error("database unavailable", extra=unavailable.log_fields())
            raise unavailable from error
        if not connecting and self._down_since is not None:
            seconds = round(self._clock() - self._down_since, 1)
            self._down_since = None
            _log.info("database available again", extra={"outage_s": seconds})


def _is_outage(error: Exception) -> bool:
    """Return whether an error of a statement is the database's, not one of the statement or of its caller. Pure."""
    if isinstance(error, OSError | exc.TimeoutError | exc.DisconnectionError):
        return True  # a time-out of asyncpg is an OSError
    if not isinstance(error, exc.DBAPIError) or isinstance(error, exc.IntegrityError):
        return False
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state:
        return state in _PERMANENT_STATES or state[:2] not in _STATEMENT_CLASSES
    return not isinstance(error, exc.ProgrammingError | exc.DataError | exc.NotSupportedError)


def _describe_place(url: sa.engine.URL) -> str:
    """Return where a database is, without user and password. Pure."""
    if url.get_backend_name() == "sqlite":
        return f"in {url.database!r}"
    host = url.host or str(url.query.get("host", "its usual host"))
    return f"at {host}" if url.port is None else f"at {host}:{url.port}"


def _make_unavailable(error: Exception, place: str) -> DatabaseUnavailable:
    """Return the error for callers, with the driver's reason in one line. Pure."""
    cause: BaseException = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
    # SQLAlchemy puts the class of asyncpg's error before its text; asyncio hides the cause of a failed connection.
    text = str(cause).rpartition(">: ")[2].strip()
    if isinstance(cause, OSError) and cause.errno is not None:
        text = text.partition("] ")[2] or text
        text = os.strerror(cause.errno) if isinstance(cause, ConnectionError) else text
    elif isinstance(cause, TimeoutError | exc.TimeoutError):
        text = "it did not respond in time"
    reason = text.splitlines()[0][:200].rstrip(".") if text else type(cause).__name__
    return DatabaseUnavailable(
        "database_unavailable",
        f"The database of jobs {place} is unavailable: {reason}.",
        hint=f"Check {_VARIABLE} and the database server, then try again.",
    )


def _make_creator(dsn: str, options: Mapping[str, Any]) -> Callable[..., Awaitable[Any]]:
    """Return the function by which SQLAlchemy connects: asyncpg reads libpq's parameters from a URL only."""

    async def connect(*_: Any, **__: Any) -> Any:
        import asyncpg

        return await asyncpg.connect(dsn, **options)

    return connect


def _make_private(path: Path) -> None:
    """Create the directory and the file of a database so that only their owner can read them.

    The others' rights are taken from a file that exists, and from SQLite's files beside it, which get its mode. A file
    of another user stays as it is, and so does a directory.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for one in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if one.stat().st_mode & 0o077:
                one.chmod(0o600)


def _leave_replica(context: Any) -> None:
    """Close all connections when one leads to a server that became read-only: after a failover, the next go elsewhere.

    They do with ``target_session_attrs=read-write`` and several hosts, or when the name of the host moves.
    """
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Allow reads during a write (WAL), and let writers wait for each other."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
