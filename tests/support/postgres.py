"""A real PostgreSQL for tests: a cluster of its own on a loopback port, which tests may stop and start again.

Tests that need no more than an empty database use the server of the environment where it is named.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
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

MISSING = "PostgreSQL's server is not installed. Run: scripts/postgres.sh --required"

_FOLDERS = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/local/bin"), Path("/usr/bin"))


def find_binaries() -> Path:
    """The folder with ``initdb`` and ``postgres``: the system's, else those that the package ``pgserver`` carries."""
    found = shutil.which("initdb")
    package = importlib.util.find_spec("pgserver")
    folders = [
        *_FOLDERS,
        *([] if found is None else [Path(found).parent]),
        *([] if package is None or package.origin is None else [Path(package.origin).parent / "pginstall" / "bin"]),
    ]
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise FileNotFoundError(MISSING)


def choose_account() -> str | None:
    """The account that runs a server, because PostgreSQL refuses to run as root; None means this process's own."""
    if os.geteuid() != 0:
        return None
    return next(entry.pw_name for entry in pwd.getpwall() if entry.pw_name in {"postgres", "nobody"})


def make_readable(binaries: Path, account: str | None, folder: Path) -> Path:
    """The binaries, or a copy of the package ``pgserver`` in ``folder`` where the account cannot reach them.

    That is so in a virtual environment below a private home directory.
    """
    try:
        subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, user=account)
    except PermissionError:
        package = binaries.parents[1]
        for part in (package, package.with_name("pgserver.libs")):  # the libraries are found beside the package
            shutil.copytree(part, folder / part.name, symlinks=True)
            for path in (folder / part.name, *(folder / part.name).rglob("*")):
                path.chmod(0o755)
        return folder / package.name / binaries.relative_to(package)
    return binaries


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

    port: int = field(default_factory=free_port)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ingest-postgres-")))
    options: tuple[str, ...] = ()
    """Settings of the server, as ``name=value``."""
    binaries: Path = field(default_factory=find_binaries)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.user = choose_account()
        password = self.folder / "password"
        password.write_text("secret")
        if self.user is not None:
            for path in (self.folder, password):
                shutil.chown(path, self.user)
        self.binaries = make_readable(self.binaries, self.user, self.folder)
        initdb = ["-D", str(self.data), "-U", "ingest", "-E", "UTF8", "--no-sync", "--auth=scram-sha-256"]
        command = [str(self.binaries / "initdb"), *initdb, "--no-instructions", f"--pwfile={password}"]
        done = subprocess.run(command, check=False, capture_output=True, cwd=self.folder, user=self.user)
        assert done.returncode == 0, done.stderr.decode()

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
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, user=self.user)
        wait_for(self._answers, 60, every_s=0.02)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self) -> None:
        """Stop the server at once: connections break, what is committed stays."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)  # immediate shutdown
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
