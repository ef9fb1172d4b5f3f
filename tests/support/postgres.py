"""A real PostgreSQL for tests: a cluster of its own on a loopback port, which tests may stop and start again.

Tests that need no more than an empty database use the server of the environment where it is named.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from ingestion_engine.runtime.settings import load_settings
from ingestion_engine.services.database import Database
from support.servers import free_port
from support.waiting import wait_for

_FOLDERS = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/local/bin"), Path("/usr/bin"))


def find_binaries() -> Path | None:
    """The folder with ``initdb`` and ``postgres``; None where PostgreSQL's server is not installed."""
    found = shutil.which("initdb")
    folders = (*_FOLDERS, *([] if found is None else [Path(found).parent]))
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def find_given() -> str | None:
    """``INGEST_DATABASE_URL`` where it names a PostgreSQL; None otherwise."""
    url = load_settings().database_url or ""
    return url if url.startswith("postgres") else None


@contextlib.asynccontextmanager
async def new_database(url: str) -> AsyncIterator[str]:
    """Create an empty database on the server of a URL; drop it at the end. The account must be allowed to."""
    name = f"test_{uuid.uuid4().hex}"
    engine = Database.open(url).engine
    try:
        async with engine.connect() as connection:
            alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await alone.execute(sa.text(f"CREATE DATABASE {name}"))
            try:
                yield sa.engine.make_url(url).set(database=name).render_as_string(hide_password=False)
            finally:
                await alone.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        await engine.dispose()


@dataclass
class Postgres:
    """A cluster with the superuser ``ingest`` and the password ``secret``."""

    binaries: Path
    port: int = field(default_factory=free_port)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ingest-postgres-")))
    options: tuple[str, ...] = ()
    """Settings of the server, as ``name=value``."""
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        password = self.folder / "password"
        password.write_text("secret")
        if self.user is not None:  # PostgreSQL refuses to run as root
            for path in (self.folder, password):
                shutil.chown(path, self.user)
        initdb = [str(self.binaries / "initdb"), "-D", str(self.data), "-U", "ingest", "-E", "UTF8", "--no-sync"]
        self._run([*initdb, "--auth=scram-sha-256", f"--pwfile={password}"])

    @property
    def user(self) -> str | None:
        """The account that runs the server; None means this process's own."""
        if os.geteuid() != 0:
            return None
        return next(entry.pw_name for entry in pwd.getpwall() if entry.pw_name in {"postgres", "nobody"})

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = "postgres", query: str = "") -> str:
        """INGEST_DATABASE_URL of a database."""
        return f"postgresql://ingest:secret@127.0.0.1:{self.port}/{database}{query}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "fsync=off", *self.options)
        command = [str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        for setting in settings:
            command += ["-c", setting]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, user=self.user)
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, 60, every_s=0.05)

    def stop(self) -> None:
        """Stop the server at once: connections break, what is committed stays."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: immediate shutdown
            self.process.wait()
            self.process = None

    def create_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{uuid.uuid4().hex}"
        command = [str(self.binaries / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "ingest", name]
        subprocess.run(command, check=True, env={**os.environ, "PGPASSWORD": "secret"})
        return name

    def close(self) -> None:
        """Stop the server and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, check=False, capture_output=True, cwd=self.folder, user=self.user)
        assert done.returncode == 0, done.stderr.decode()
