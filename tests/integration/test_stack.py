"""The embedded stack: starts what is missing, keeps data, ends without a trace, and says so when it cannot."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr
from rich.console import Console

from ingestion_devstack.demo.demo import run_demo
from ingestion_devstack.kubernetes import find_spark
from ingestion_devstack.stack.environment import apply_variables, settings_to_env
from ingestion_devstack.stack.programs import PROGRAMS
from ingestion_devstack.stack.service import StackError
from ingestion_devstack.stack.stack import SYSTEMS, Stack, configured_systems
from ingestion_devstack.stack.up import render_table
from ingestion_engine.adapters.s3.client import make_client
from ingestion_engine.runtime.settings import Settings
from support.platform_world import Platform
from support.waiting import wait_for

PACKAGE = "openjdk-17-jre-headless"
NO_PROGRAMS = {f"INGEST_STACK__{name.upper()}": "off" for name in PROGRAMS}
"""Whatever servers this machine has on its PATH, the tests use the stack's own."""

_supervisors: list[subprocess.Popen[str]] = []
_SRC = Path(__file__).resolve().parents[2] / "src"


def stack(data_dir: Path, only: set[str], **settings: object) -> Stack:
    return Stack(Settings(data_dir=data_dir, **settings), only=only, with_api=False)


def start_up(data_dir: Path, only: set[str]) -> subprocess.Popen[str]:
    """`ingest up` in a process of its own, with these systems embedded and no API."""
    code = (
        "import sys; from pathlib import Path; from ingestion_devstack.stack import up\n"
        "from ingestion_engine.runtime.settings import Settings\n"
        f"made = up.Stack; up.Stack = lambda *a, **k: made(*a, **{{**k, 'only': {only!r}, 'with_api': False}})\n"
        "sys.exit(up.run_up(Settings(data_dir=Path(sys.argv[1]))))"
    )
    return start_supervisor(["-c", code, str(data_dir)], dict(os.environ))


def start_supervisor(arguments: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    """A Python process with a supervisor in it; killed at the end of the test when it still runs."""
    supervisor = subprocess.Popen(
        [sys.executable, *arguments],
        env={**env, **NO_PROGRAMS, "PYTHONPATH": str(_SRC), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _supervisors.append(supervisor)
    return supervisor


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Read its output up to the line with these words."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"ended without {words!r}:\n{''.join(lines)}")


def others() -> Iterator[psutil.Process]:
    return (process for process in psutil.process_iter(["cmdline"]) if process.pid != os.getpid())


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def have_ended(processes: list[psutil.Process]) -> bool:
    """Return whether none of them runs; one that its new parent has not collected yet has ended."""
    return not any(runs(process) for process in processes)


def runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # collected between the two questions
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory for a stack; at the end no process mentions it."""
    path = tmp_path / "home"
    yield path
    while _supervisors:  # a failed test must not leave its own behind
        supervisor = _supervisors.pop()
        supervisor.kill()
        supervisor.wait()
        wait_for(lambda: not any(str(path) in " ".join(p.info["cmdline"] or ()) for p in others()))
    left = [process.info["cmdline"] for process in others() if str(path) in " ".join(process.info["cmdline"] or ())]
    assert not left


def test_world_in_a_file(home: Path) -> None:
    """A shell that sources stack.env has exactly the stack's settings, and only the owner can read them."""
    with stack(home, {"s3", "qdrant"}) as running:
        file = home / "stack.env"
        assert file.stat().st_mode & 0o777 == 0o600
        show = subprocess.run(
            ["/bin/sh", "-c", f"set -a; . {file}; env"], env={}, capture_output=True, text=True, check=True
        )
        seen = dict(line.split("=", 1) for line in show.stdout.splitlines() if line.startswith("INGEST_"))
        assert seen.pop("INGEST_STACK_VARIABLES")
        assert seen == running.env
        assert seen["INGEST_STATE_URL"] == "s3://ingest-state"
    assert not file.exists()


def test_no_secret_in_a_command_line(home: Path) -> None:
    """Credentials travel by environment; other users of the machine can read command lines."""
    with stack(home, {"s3", "qdrant", "weaviate", "spark"}) as running:
        secrets = [value for name, value in running.env.items() if name.endswith(("_KEY", "_KEY_ID", "TOKEN"))]
        assert len(secrets) == 4
        secrets.append(json.loads((home / "credentials.json").read_text())["kube_token"])
        for process in psutil.process_iter(["cmdline"]):
            assert not any(secret in part for part in process.info["cmdline"] or [] for secret in secrets)


def test_drivers_on_spark_get_the_stacks_credentials(home: Path) -> None:
    """By the secret that manifests refer to; it and the kubeconfig can be read by their owner only."""
    with stack(home, {"spark"}, qdrant={"url": "http://127.0.0.1:1", "api_key": SecretStr("own")}) as running:
        spark = running.settings.spark
        assert spark.kubeconfig is not None
        assert spark.kubeconfig.stat().st_mode & 0o777 == 0o600
        folder = home / "kube" / "secrets" / str(spark.secret_name)
        held = {path.name: path.read_text() for path in folder.iterdir() if path.name.startswith("INGEST_")}
        assert held == {"INGEST_QDRANT__API_KEY": "own"}
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Java."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(find_spark, "_SYSTEM_HOMES", tmp_path)


@pytest.mark.usefixtures("no_java")
def test_without_java_everything_but_spark_works(home: Path) -> None:
    """The table and the answer to a job on Spark name the package to install; a job without Spark does its work."""
    settings = Settings(data_dir=home, api={"port": 0})
    systems = set(SYSTEMS) - {"ray"}
    with (
        Stack(settings, only=systems, ollama_arguments=("--faults", "--test-models")) as running,
        httpx.Client(base_url=running.services["api"].url, timeout=30) as http,
    ):
        assert set(running.services) == systems - {"spark"} | {"api"}
        console = Console(file=io.StringIO(), width=200)
        console.print(render_table(running))
        assert PACKAGE in console.file.getvalue()
        ready = http.get("/readyz", params={"within_s": 30}).json()
        assert ready["status"] == "ready"
        assert "spark" not in ready["dependencies"]
        refused = http.post("/spark/jobs", json={"source": {"bucket": "docs"}, "collection": "none"})
        assert (refused.status_code, refused.json()["code"]) == (501, "engine_not_configured")
        assert PACKAGE in refused.json()["hint"]
        platform = Platform(running.settings, running.env, http, running.services)
        platform.upload("docs", [("a.txt", b"Works without Java.")])
        summary = platform.run_local("job-local", source={"bucket": "docs"}, collection="works")
        assert summary["state"] == "succeeded"
        assert len(platform.both("works")) == 1


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("engine", ["spark", "both"])
def test_without_java_a_demonstration_of_spark_says_so_at_once(home: Path, engine: str) -> None:
    """Nothing is started first; the message names the package to install."""
    console = Console(file=io.StringIO(), width=200)
    assert run_demo(home, engine=engine, console=console) == 1
    said = console.file.getvalue()
    assert PACKAGE in said
    assert "Starting" not in said


def test_data_and_addresses_survive_a_restart(home: Path) -> None:
    """A second run in the same directory has the same ports and credentials, and finds objects and points again."""
    with stack(home, {"s3", "qdrant"}) as running:
        first = running.env
        headers = {"api-key": first["INGEST_QDRANT__API_KEY"]}
        collection = f"{running.services['qdrant'].url}/collections/kept"
        vectors = {"vectors": {"size": 2, "distance": "Cosine"}}
        assert httpx.put(collection, headers=headers, json=vectors).is_success
        put_object(running.settings, "docs", "kept.txt", b"still here")
    with stack(home, {"s3", "qdrant"}) as running:
        assert running.env == first
        assert httpx.get(collection, headers=headers).is_success
        assert get_object(running.settings, "docs", "kept.txt") == b"still here"


def put_object(settings: Settings, bucket: str, key: str, body: bytes) -> None:
    make_client(settings.s3).put_object(Bucket=bucket, Key=key, Body=body)


def get_object(settings: Settings, bucket: str, key: str) -> bytes:
    return bytes(make_client(settings.s3).get_object(Bucket=bucket, Key=key)["Body"].read())


def test_directory_belongs_to_one_stack(home: Path) -> None:
    """A second stack in the same directory is refused, naming the process that has it; the first goes on."""
    with stack(home, {"qdrant"}) as running:
        with pytest.raises(StackError, match=f"process {os.getpid()}.*Stop it first"), stack(home, {"s3"}):
            pass
        running.check()
        assert (home / "stack.env").exists()


def test_dead_service_is_named_with_its_log(home: Path) -> None:
    """When a server dies, the stack says which one and shows the end of its log."""
    with stack(home, {"s3"}) as running:
        (weed,) = [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "weed" and any(str(home) in part for part in process.info["cmdline"] or [])
        ]
        weed.kill()
        with pytest.raises(StackError, match=r"S3 ended with exit code 137\. The last lines of .*s3\.log:\n.*"):
            wait_for(lambda: running.check() or False)


def test_a_server_that_dies_is_started_again_once(home: Path) -> None:
    """`ingest up` says so and goes on; a second death within minutes ends it."""
    supervisor = start_up(home, {"s3"})
    read_until(supervisor, "Ctrl-C stops everything")
    endpoint = json.loads((home / "ports.json").read_text())["s3"]

    def find_weed() -> psutil.Process | None:
        return next((process for process in descendants(supervisor) if process.name() == "weed"), None)

    def kill_weed() -> None:
        weed = wait_for(find_weed)
        assert weed is not None
        weed.kill()
        weed.wait()

    kill_weed()
    said = read_until(supervisor, "is started again")
    assert "S3 ended with exit code 137" in said
    wait_for(lambda: find_weed() is not None and answers_at(endpoint))
    kill_weed()
    # "Ended twice within 10 minutes: …", or without it while the supervisor still waited for the restarted server.
    said = read_until(supervisor, "S3 ended with exit code 137")
    assert "is started again" not in said
    assert supervisor.wait(60) == 1


def answers_at(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/")
    except httpx.HTTPError:
        return False
    return True


def test_service_can_be_restarted_alone(home: Path) -> None:
    """One server stops and starts again at its address while the others run; drills use this."""
    with stack(home, {"s3", "qdrant"}) as running:
        qdrant = running.services["qdrant"]
        qdrant.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(qdrant.url)
        running.services["s3"].check()
        qdrant.start()
        qdrant.wait_until_ready()
        assert httpx.get(f"{qdrant.url}/readyz").is_success


def test_failed_start_leaves_nothing(home: Path) -> None:
    """A server that cannot start ends the others too, and its last words are in the message."""
    before = set(psutil.Process().children(recursive=True))  # other tests' servers may run all along
    settings = Settings(data_dir=home)
    flags = ("--no-such-flag",)
    with (
        pytest.raises(StackError, match=r"(?s)Ollama ended with exit code 2.*--no-such-flag"),
        Stack(settings, only={"s3", "ollama"}, with_api=False, ollama_arguments=flags),
    ):
        pass
    assert set(psutil.Process().children(recursive=True)) <= before


def test_killed_supervisor_takes_everything_with_it(home: Path) -> None:
    """After SIGKILL of the supervisor nothing of Ray or of the other servers is left, and the next run cleans up."""
    supervisor = start_up(home, {"ray", "qdrant"})
    read_until(supervisor, "Ctrl-C stops everything")
    started = descendants(supervisor)
    (temp_dir,) = {
        Path(part.removeprefix("--temp-dir=")).parent
        for process in started
        for part in process.cmdline()
        if part.startswith("--temp-dir=")
    }
    assert not any("ray.util.client.server" in " ".join(process.cmdline()) for process in started), "nobody uses it"
    assert any("raylet" in process.name() for process in started)
    assert temp_dir.is_dir()
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: have_ended(started))
    shutil.rmtree(home)
    with stack(home, {"ray"}):
        assert not temp_dir.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_in_order(home: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end `ingest up` with exit code 0 and no process left."""
    supervisor = start_up(home, {"s3", "qdrant", "weaviate"})
    output = read_until(supervisor, "Ctrl-C stops everything")
    assert "a real S3 server" in output
    assert output.count("stand-in") == 2
    started = descendants(supervisor)
    assert len(started) >= 6
    supervisor.send_signal(number)
    assert supervisor.wait(30) == 0
    assert have_ended(started)


def test_signal_during_the_start_leaves_nothing(home: Path) -> None:
    """SIGTERM before everything is up ends what was started already."""
    supervisor = start_up(home, {"s3", "ollama", "qdrant", "weaviate", "ray"})
    wait_for(lambda: len(descendants(supervisor)) >= 5)
    started = descendants(supervisor)
    supervisor.terminate()
    assert supervisor.wait(40) == 0
    assert have_ended(started)


def test_configured_systems_are_left_alone(home: Path) -> None:
    """What INGEST_* names is used as it is; only the rest is embedded."""
    mine = {"url": "http://127.0.0.1:1", "api_key": SecretStr("own")}
    with stack(home, {"qdrant", "s3"}, qdrant=mine) as running:
        assert set(running.services) == {"s3"}
        assert running.env["INGEST_QDRANT__URL"] == "http://127.0.0.1:1"
        assert running.env["INGEST_QDRANT__API_KEY"] == "own"


def test_the_gateway_is_in_front_of_ollama(home: Path) -> None:
    """The product finds it by its variable; it stays out where workers on other machines would have to reach it."""
    with stack(home, {"ollama", "gateway"}) as running:
        url = running.env["INGEST_GATEWAY__URL"]
        assert running.settings.gateway.url == (url,)
        wait_for(lambda: httpx.get(f"{url}/readyz").is_success, 30)
        behind = httpx.get(f"{running.settings.ollama.urls[0]}/api/tags").json()["models"]
        assert [model["digest"] for model in httpx.get(f"{url}/api/tags").json()["models"]] == [
            model["digest"] for model in behind
        ]
    with stack(home, {"gateway"}, ray={"address": "http://127.0.0.1:1"}) as running:
        assert (running.services, running.settings.gateway.url) == ({}, ())
    with stack(home, {"gateway"}, gateway={"url": "http://127.0.0.1:1"}) as running:
        assert (running.services, running.env["INGEST_GATEWAY__URL"]) == ({}, "http://127.0.0.1:1")


def test_each_system_counts_as_configured_by_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as configured by default, and each system by the variable that leads to it."""
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        monkeypatch.delenv(name)
    assert configured_systems(Settings()) == set()
    variables = (
        *("S3__ENDPOINT_URL", "RAY__ADDRESS", "SPARK__NAMESPACE", "OLLAMA__URLS", "GATEWAY__URL", "QDRANT__URL"),
        "WEAVIATE__URL",
    )
    for system, variable in zip(SYSTEMS, variables, strict=True):
        with monkeypatch.context() as patch:
            patch.setenv(f"INGEST_{variable}", "http://127.0.0.1:1")
            assert configured_systems(Settings()) == {system}


def test_own_s3_and_ray_need_a_place_for_the_state(home: Path) -> None:
    """Workers of another cluster cannot read this machine's files, so the stack asks instead of guessing."""
    own = {"s3": {"endpoint_url": "http://127.0.0.1:1"}, "ray": {"address": "http://127.0.0.1:1"}}
    with (
        pytest.raises(StackError, match="Set INGEST_STATE_URL"),
        Stack(Settings(data_dir=home, **own), only={"qdrant"}, with_api=True),
    ):
        pass


def test_settings_survive_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings written as variables and read back are the same settings."""
    variables = {
        "INGEST_S3__SECRET_ACCESS_KEY": "a'b \"c$d",
        "INGEST_OLLAMA__URLS": "http://127.0.0.1:1,http://127.0.0.1:2",
        "INGEST_API__PORT": "0",
        "INGEST_RAY__SHIP_PACKAGE": "true",
        "INGEST_DATA_DIR": str(tmp_path),
    }
    made = apply_variables(Settings(), variables)
    env = settings_to_env(made)
    assert variables.items() <= env.items()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert Settings() == made


def test_everything_from_the_command_line(home: Path) -> None:
    """`ingest up` prints where each system is; the API sees all of them as healthy, and SIGTERM ends everything."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("INGEST_")}
    env |= {"INGEST_DATA_DIR": str(home), "INGEST_API__PORT": "0"}
    supervisor = start_supervisor(["-m", "ingestion_engine.cli", "up"], env)
    output = read_until(supervisor, "Ctrl-C stops everything")
    lines = (home / "stack.env").read_text().splitlines()
    url = next(line.partition("=")[2] for line in lines if line.startswith("INGEST_API_URL="))
    assert url in output
    assert "Documents to try it with: s3://docs/demo/" in output
    ready = httpx.get(f"{url}/readyz?within_s=30", timeout=60).json()
    assert ready["status"] == "ready", ready
    assert {"qdrant", "weaviate", "ray", "spark", "ollama"} <= set(ready["dependencies"])
    assert any(name.startswith("gateway:127.0.0.1:") for name in ready["dependencies"])
    started = descendants(supervisor)
    supervisor.terminate()
    assert supervisor.wait(60) == 0
    assert have_ended(started)
