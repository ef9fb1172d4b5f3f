"""The two wheels: what they contain, and what the product's wheel does beside the packages of one extra only."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest

from support.distributions import find_dependencies, read_wheel_requires
from support.servers import RunningServer, answers, free_port, start_command

ROOT = Path(__file__).resolve().parents[2]
MODULE = "ingestion_engine"

Install = Callable[..., "Environment"]


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the product's wheel and the dependencies of some of its extras."""

    bin: Path

    def ingest(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "ingest", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.bin,
            env={"PATH": os.environ["PATH"], "COLUMNS": "200", **(env or {})},
        )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built without an index."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    packages = [str(ROOT), str(ROOT / "src" / "ingestion_devstack")]
    subprocess.run([*build, "--wheel-dir", str(folder), *packages], check=True, timeout=120)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def install(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Install:
    """A function that makes an environment for some extras, without downloading: dependencies are linked."""

    def make(*extras: str) -> Environment:
        home = tmp_path_factory.mktemp("-".join(("env", *extras)))
        venv.create(home, with_pip=False, symlinks=True)
        packages = next(home.glob("lib/python*/site-packages"))
        for entry in find_files(find_dependencies(read_wheel_requires(wheels[MODULE]), extras)):
            (packages / entry.name).symlink_to(entry)
        python = str(home / "bin" / "python")
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*command, "--no-compile", str(wheels[MODULE])], check=True, timeout=60)
        return Environment(home / "bin")

    return make


def find_files(distributions: Iterable[str]) -> set[Path]:
    """Return the top-level files and directories of distributions in this interpreter's site-packages."""
    found = set()
    for name in distributions:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            top = file.parts[0]
            if top not in {"..", "__pycache__"}:
                found.add(Path(str(distribution.locate_file(top))))
    return found


def list_modules(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        yield from (name for name in archive.namelist() if ".dist-info/" not in name)


def list_sources(package: str, pattern: str = "*.py") -> set[str]:
    folder = ROOT / "src"
    return {str(path.relative_to(folder)) for path in (folder / package).rglob(pattern) if path.is_file()}


def test_each_wheel_holds_its_own_package_and_nothing_else(wheels: dict[str, Path]) -> None:
    """No module of the embedded stack is in the product's wheel; no source file is missing from either."""
    assert set(wheels) == {"ingestion_engine", "ingestion_devstack"}
    for package, wheel in wheels.items():
        modules = set(list_modules(wheel))
        assert {name.partition("/")[0] for name in modules} == {package}
        assert {name for name in modules if name.endswith(".py")} == list_sources(package)
        assert f"{package}/py.typed" in modules
        assert f"{package}/pyproject.toml" not in modules


@pytest.mark.parametrize("folder", ["console/templates", "console/static"])
def test_templates_and_static_files_are_in_the_wheel(wheels: dict[str, Path], folder: str) -> None:
    """Without them, the console of an installed service has no pages."""
    files = list_sources(f"{MODULE}/{folder}", "*")
    assert files
    assert files <= set(list_modules(wheels[MODULE]))


@pytest.fixture(scope="module")
def base(install: Install) -> Environment:
    return install()


def test_the_base_install_has_help_and_a_client(base: Environment) -> None:
    """Nothing but the base dependencies is imported for the help and for commands that call the service."""
    shown = base.ingest("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "serve" in shown.stdout
    unreachable = base.ingest("jobs", "--url", f"http://127.0.0.1:{free_port()}")
    assert unreachable.returncode == 7, unreachable.stderr


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["up"], "`make setup`"),
        (["demo"], "`make setup`"),
        (["upload", ".", "s3://docs"], "pip install 'ingestion-engine[s3]'"),
        (["serve"], "pip install 'ingestion-engine[api]'"),
        (["gateway"], "pip install 'ingestion-engine[gateway]'"),
        (["worker", "run", "{request}"], "pip install 'ingestion-engine[worker]'"),
        (["worker", "partition", "--spec", "s3://b/jobs/j/spec.json", "--id", "a01-00000"], "[worker]"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_missing_extra_is_one_error_with_the_command_to_run(
    base: Environment, tmp_path: Path, arguments: list[str], shown: str
) -> None:
    """Exit code 2, no traceback, on a base install."""
    request = tmp_path / "request.json"
    request.write_bytes(orjson.dumps({"source": {"bucket": "docs"}, "collection": "notes"}))
    done = base.ingest(
        *(part.format(request=request) for part in arguments), env={"INGEST_STATE_URL": f"file://{tmp_path}/state"}
    )
    assert done.returncode == 2, done.stderr
    assert shown in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_extra_api_serves(install: Install, tmp_path: Path) -> None:
    """The service starts with its own extra alone; a system of another extra that is configured names that extra."""
    environment = install("api")
    port = free_port()
    env = {"INGEST_DATA_DIR": str(tmp_path), "INGEST_STATE_URL": f"file://{tmp_path}/state"}
    url = f"http://127.0.0.1:{port}"
    server = start_command(
        "serve",
        # -I: without PYTHONPATH, which leads to this checkout.
        [str(environment.bin / "python"), "-I", "-m", "ingestion_engine.cli", "serve", "--port", str(port)],
        url=url,
        log=tmp_path / "serve.log",
        env=env,
        is_ready=answers(url + "/livez"),
    )
    try:
        assert httpx.get(url + "/jobs").json() == {"items": [], "next_cursor": None}
        page = httpx.get(url + "/").text
        assert "No job yet" in page
        [style] = re.findall(r'href="(/console/static/[^"]+\.css)"', page)
        assert httpx.get(url + style).status_code == 200
    finally:
        server.stop()
    refused = environment.ingest("serve", "--port", "0", env={**env, "INGEST_WEAVIATE__URL": "http://127.0.0.1:1"})
    assert refused.returncode == 2
    assert "INGEST_WEAVIATE__URL requires the extra 'weaviate'" in refused.stderr


def test_the_extra_gateway_serves(install: Install, tmp_path: Path, ollama_server: RunningServer) -> None:
    """The gateway starts with its own extra alone, and serves a model of the server behind it."""
    environment = install("gateway")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = start_command(
        "gateway",
        [str(environment.bin / "python"), "-I", "-m", "ingestion_engine.cli", "gateway", "--port", str(port)],
        url=url,
        log=tmp_path / "gateway.log",
        env={"INGEST_OLLAMA__URLS": ollama_server.url},
        is_ready=lambda: httpx.get(url + "/readyz", timeout=2).status_code == 200,
    )
    try:
        answer = httpx.post(url + "/api/embed", json={"model": "hash-384", "input": ["a", "b"]}, timeout=30).json()
        assert [len(vector) for vector in answer["embeddings"]] == [384, 384]
    finally:
        assert server.stop() == 0


def test_the_extra_worker_runs_a_job(
    install: Install,
    tmp_path: Path,
    seaweedfs: RunningServer,
    ollama_server: RunningServer,
    qdrant_server: RunningServer,
) -> None:
    """``ingest upload`` and ``ingest worker run`` need neither FastAPI nor SQLAlchemy, Ray or Spark."""
    environment = install("worker")
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"note {number} of a worker", encoding="utf-8")
    env = {
        "INGEST_S3__ENDPOINT_URL": seaweedfs.url,
        "INGEST_S3__ACCESS_KEY_ID": seaweedfs.secrets["AWS_ACCESS_KEY_ID"],
        "INGEST_S3__SECRET_ACCESS_KEY": seaweedfs.secrets["AWS_SECRET_ACCESS_KEY"],
        "INGEST_OLLAMA__URLS": ollama_server.url,
        "INGEST_QDRANT__URL": qdrant_server.url,
        "INGEST_QDRANT__API_KEY": qdrant_server.secrets["QDRANT_API_KEY"],
        "INGEST_STATE_URL": f"file://{tmp_path}/state",
        "INGEST_LEASE__GRACE_S": "0",
    }
    prefix = f"{tmp_path.name}/"
    uploaded = environment.ingest("upload", str(folder), f"s3://docs/{prefix}", "--json", env=env)
    assert uploaded.returncode == 0, uploaded.stderr
    request = tmp_path / "request.json"
    source = {"bucket": "docs", "prefix": prefix}
    body = {"source": source, "collection": "wheels", "stores": ["qdrant"], "embedding": {"model": "hash-384"}}
    request.write_bytes(orjson.dumps(body))
    done = environment.ingest("worker", "run", str(request), env=env)
    assert done.returncode == 0, done.stderr
    summary = orjson.loads(done.stdout)
    assert (summary["state"], summary["counts"]["done"]) == ("succeeded", 3)
