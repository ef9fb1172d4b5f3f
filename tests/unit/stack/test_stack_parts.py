"""Parts of the embedded stack that need no server: ports, leftovers, and what a shell keeps of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ingestion_devstack.stack.api_service import plan_api
from ingestion_devstack.stack.credentials import load_or_make_credentials
from ingestion_devstack.stack.environment import load_own_settings, write_stack_env
from ingestion_devstack.stack.processes import Ports
from ingestion_devstack.stack.ray_head import LockedDirectory, leave_out_client_server, remove_leftovers
from ingestion_devstack.stack.service import Home, Plan, Service, StackError
from ingestion_devstack.stack.stack import Listener, Stack, configured_systems
from ingestion_engine.runtime.settings import Settings
from support.waiting import wait_for


@pytest.fixture
def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def ports() -> Iterator[Ports]:
    ports = Ports({})
    yield ports
    ports.release()


def test_the_preferred_port_is_taken_when_it_is_free(ports: Ports, a_free_port: int) -> None:
    """In a new directory nothing is remembered, and 0 stands for "any"."""
    assert ports.take("qdrant", a_free_port) == a_free_port
    assert ports.take("weaviate", a_free_port) != a_free_port


def test_the_port_of_the_last_run_comes_first(a_free_port: int) -> None:
    """Addresses survive a restart."""
    ports = Ports({"qdrant": a_free_port})
    assert ports.take("qdrant", 1) == a_free_port
    ports.release()


def test_a_port_in_use_is_left_alone(ports: Ports) -> None:
    """Whoever listens on it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert ports.take("qdrant", other.getsockname()[1]) != other.getsockname()[1]


def test_two_stacks_that_start_at_once_choose_different_ports(ports: Ports, a_free_port: int) -> None:
    """Neither server listens yet when the other stack looks."""
    other = Ports({})
    assert ports.take("qdrant", a_free_port) == a_free_port
    assert other.take("qdrant", a_free_port) != a_free_port
    ports.release()
    assert other.take_exactly("s3", a_free_port)
    other.release()


def a_home(folder: Path, remembered: dict[str, int]) -> Home:
    return Home(folder, Ports(remembered), load_or_make_credentials(folder / "credentials.json"))


@pytest.mark.parametrize("remembered", [{}, {"api": 8080}])
def test_the_configured_port_of_the_service_is_used(
    tmp_path: Path, a_free_port: int, remembered: dict[str, int]
) -> None:
    """In a new directory, and where another port was used before."""
    home = a_home(tmp_path, remembered)
    plan = plan_api(home, Settings(api={"port": a_free_port}))
    assert plan.variables["INGEST_API__PORT"] == str(a_free_port)
    with pytest.raises(StackError, match=f"Port {a_free_port} .* is in use"):
        plan_api(home, Settings(api={"port": a_free_port}))
    assert plan_api(home, Settings(api={"port": 0})).url
    home.ports.release()


# -- leftovers --------------------------------------------------------------------------------------------------------


def test_a_directory_of_a_dead_supervisor_is_removed_whatever_became_of_its_data(tmp_path: Path) -> None:
    """Nothing in the data directory is needed, so it may have been deleted."""
    code = (
        "import os, sys; from pathlib import Path; from ingestion_devstack.stack.ray_head import LockedDirectory\n"
        "LockedDirectory(Path(sys.argv[1])); os._exit(9)"
    )
    dead, alive = tmp_path / "ingest-ray-dead", LockedDirectory(tmp_path / "ingest-ray-alive")
    subprocess.run([sys.executable, "-c", code, str(dead)], check=False)
    (dead / "r").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "ingest-ray-not-locked-yet").mkdir()
    in_use = subprocess.Popen(
        [sys.executable, "-c", "input()", str(tmp_path / "ingest-ray-old-but-used" / "r")], stdin=-1
    )
    for name in ("ingest-ray-old", "ingest-ray-old-but-used"):  # of a version that locked nothing
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    in_use.communicate(b"\n")
    left = {"ingest-ray-alive", "ingest-ray-not-locked-yet", "ingest-ray-old-but-used", "other"}
    assert {path.name for path in tmp_path.iterdir()} == left
    alive.remove()
    alive.ensure()
    remove_leftovers(tmp_path)
    assert alive.path.is_dir(), "a server that is started again has its directory again"
    alive.remove()
    assert not alive.path.exists()


def test_no_server_for_ray_clients_is_started() -> None:
    """Ray passes its parameters to the hook; a port means that the server is started."""
    parameters = SimpleNamespace(ray_client_server_port=10_001)
    leave_out_client_server(parameters, True)
    assert parameters.ray_client_server_port is None


# -- variables of an earlier stack ------------------------------------------------------------------------------------


def test_a_shell_that_has_loaded_an_old_file_has_no_systems_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses of a stack that has stopped are its own; what the user set stays."""
    for name in [name for name in os.environ if name.startswith("INGEST_")]:
        monkeypatch.delenv(name)
    stacks = {"INGEST_QDRANT__URL": "http://127.0.0.1:6333", "INGEST_S3__ENDPOINT_URL": "http://127.0.0.1:8333"}
    users = {"INGEST_WEAVIATE__URL": "http://weaviate:8080", "INGEST_EMBED__IN_FLIGHT": "7"}
    file = tmp_path / "stack.env"
    write_stack_env(file, {**stacks, **users}, stacks)
    shown = subprocess.run(
        ["/bin/sh", "-c", f"set -a; . {file}; env"], env={}, capture_output=True, text=True, check=True
    )
    for line in shown.stdout.splitlines():
        if line.startswith("INGEST_"):
            monkeypatch.setenv(*line.split("=", 1))
    assert configured_systems(Settings()) == {"qdrant", "s3", "weaviate"}
    settings = load_own_settings()
    assert configured_systems(settings) == {"weaviate"}
    assert settings.embed.in_flight == 7
    monkeypatch.setenv("INGEST_QDRANT__URL", "http://qdrant:6333")  # set by the user since then
    assert load_own_settings().qdrant.url == "http://qdrant:6333"


# -- servers that end -------------------------------------------------------------------------------------------------


def a_service(folder: Path, code: str) -> Service:
    """Return a server that ends with status 3 when a file appears; `code` runs when it starts."""
    text = (
        "import sys, time; from pathlib import Path\n"
        f"{code}\n"
        "print('serving', flush=True)\n"
        "while not Path('stop').exists(): time.sleep(0.01)\n"
        "Path('stop').unlink(); sys.exit(3)"
    )
    is_up = folder / "logs" / "it.log"
    plan = Plan(
        name="it",
        title="It",
        url="",
        what="",
        command=(sys.executable, "-c", text),
        is_ready=lambda: is_up.exists() and is_up.read_text(encoding="utf-8").endswith("serving\n"),
    )
    return Service(plan, a_home(folder, {}), {})


def end(service: Service, folder: Path) -> None:
    (folder / "stop").touch()
    wait_for(lambda: service.exit_code is not None)


def test_a_server_that_ends_is_started_again_once(tmp_path: Path) -> None:
    """The second end, soon after, is final and shows its log."""
    service = a_service(tmp_path, "")
    service.start()
    service.wait_until_ready()
    end(service, tmp_path)
    assert "It ended with exit code 3." in service.last_words
    said: list[str] = []
    stack = Stack(Settings(data_dir=tmp_path), listener=Listener(on_restart=lambda one: said.append(one.plan.title)))
    stack.services["it"] = service
    stack.keep_running()
    assert (service.exit_code, said) == (None, ["It"])
    end(service, tmp_path)
    with pytest.raises(StackError, match=r"Ended twice within 10 minutes: It ended with exit code 3\."):
        stack.keep_running()
    assert said == ["It"], "nobody is told of a start that is none"
    service.stop()


def test_a_killed_server_leaves_no_runner_behind(tmp_path: Path) -> None:
    """SIGKILL gives a server no time to end its helper, which has a session of its own, as Ollama's runner does."""
    marker = tmp_path / "pids"
    helper = "import os, time; os.setsid(); time.sleep(600)"
    server = (
        "import os, subprocess, sys, time; "
        f"helper = subprocess.Popen([sys.executable, '-c', {helper!r}]); "
        f"open({str(marker)!r} + '.new', 'w').write(f'{{os.getpid()}} {{helper.pid}}'); "
        f"os.rename({str(marker)!r} + '.new', {str(marker)!r}); time.sleep(600)"
    )
    guard = [sys.executable, "-m", "ingestion_devstack.stack.guard", "--", sys.executable, "-c", server]
    with subprocess.Popen(guard, stdin=subprocess.PIPE) as process:
        wait_for(marker.exists)
        pid, helper_pid = map(int, marker.read_text().split())
        os.kill(pid, signal.SIGKILL)
        assert process.wait(20) == 128 + signal.SIGKILL
    assert not Path(f"/proc/{helper_pid}").exists()
