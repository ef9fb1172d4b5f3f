"""The compose file: valid, nothing reachable from outside, no secret in it, and every name in it exists."""

from __future__ import annotations

import asyncio
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from ingestion_engine import __version__
from ingestion_engine.access.keys.file import KeyRing
from ingestion_engine.runtime.settings import OTHER_VARIABLES, _list_names
from support.compose import DEPLOY, FILE, ROOT, list_secrets, list_variables, read_compose, read_example
from support.images import IMAGES, Dockerfile

SERVICES: dict[str, dict[str, Any]] = read_compose()["services"]
ONE_SHOTS = {"buckets", "model", "cli"}
"""Services that end."""

SYSTEMS = {"minio", "seaweedfs", "rustfs", "ollama", "qdrant", "weaviate", "postgres", "ray"}

every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_the_file_is_valid() -> None:
    """By the schema of the compose specification."""
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_everything_that_the_issue_names_is_there() -> None:
    """The real systems, each by a profile of its own name; service and gateway always."""
    assert set(SERVICES) == SYSTEMS | ONE_SHOTS | {"service", "gateway", "prometheus", "grafana"}
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert {name: profiles[name] for name in SYSTEMS} == {name: [name] for name in SYSTEMS}
    assert profiles["model"] == ["ollama"]
    assert profiles["prometheus"] == profiles["grafana"] == ["monitoring"]
    assert profiles["service"] is profiles["gateway"] is profiles["buckets"] is None
    default = set(read_example()["COMPOSE_PROFILES"].split(","))
    assert default == SYSTEMS - {"seaweedfs", "rustfs"}


@every_service
def test_images_have_exact_tags(name: str) -> None:
    """A version each; ours have the version of the package. Where they come from is the engine's own setting."""
    image = SERVICES[name]["image"]
    if image.startswith("ingestion-engine"):
        assert image.rpartition(":")[2] == __version__
    else:
        assert re.fullmatch(r"([\w-]+/)?[\w-]+:([\w.-]*\d+\.\d+[\w.-]*|RELEASE\.[\dTZ-]+)", image), image


@every_service
def test_only_this_machine_reaches_the_ports(name: str) -> None:
    """Every published port is one of loopback, without the host's network."""
    service = SERVICES[name]
    for port in service.get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    assert not {"network_mode", "privileged", "pid", "devices"} & set(service)
    assert "docker.sock" not in str(service)


def test_no_port_is_published_twice() -> None:
    """By services that can run together."""
    owners: dict[str, list[str]] = {}
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            owners.setdefault(port.split(":")[1], []).append(name)
    assert {tuple(names) for names in owners.values() if len(names) > 1} == {("minio", "seaweedfs", "rustfs")}


@every_service
def test_every_container_is_limited_and_unprivileged(name: str) -> None:
    """Restarts, no new privileges, no capability, a limit of memory, rotated logs."""
    service = SERVICES[name]
    assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert re.fullmatch(r"\d+[MG]", service["deploy"]["resources"]["limits"]["memory"])
    assert service["logging"]["options"]["max-size"]
    if service["image"].startswith("ingestion-engine"):
        assert service["read_only"] is True
        assert service["init"] is True


@every_service
def test_health_checks_use_what_the_images_have(name: str) -> None:
    """No shell where none is needed, and only tools that the image is known to have; see the comments in the file."""
    tools = {
        "gateway": "python",
        "grafana": "wget",
        "minio": "mc",
        "ollama": "ollama",
        "postgres": "pg_isready",
        "prometheus": "wget",
        "qdrant": "bash",
        "ray": "python",
        "rustfs": "curl",
        "seaweedfs": "wget",
        "weaviate": "wget",
    }
    check = SERVICES[name].get("healthcheck", {})
    if name in ONE_SHOTS:
        assert "test" not in check
    elif name == "service":  # the image's own
        assert check == {}
        assert Dockerfile.read(IMAGES / "service" / "Dockerfile").final.texts("HEALTHCHECK")
    else:
        assert check["test"][:2] == ["CMD", tools[name]]
        assert check["interval"]
        assert check["timeout"]
        assert check["start_period"]


def test_everything_waits_for_what_it_needs() -> None:
    """Services for healthy ones, and for one-shots that succeeded; what a profile leaves out is not waited for."""
    profiled = {name for name, service in SERVICES.items() if "profiles" in service}
    for name, service in SERVICES.items():
        for other, need in service.get("depends_on", {}).items():
            ended = "service_completed_successfully"
            assert need["condition"] == (ended if other in ONE_SHOTS else "service_healthy"), (name, other)
            same = service.get("profiles") is not None and service["profiles"] == SERVICES[other].get("profiles")
            assert need.get("required", True) is (other not in profiled or same), (name, other)
    assert set(SERVICES["service"]["depends_on"]) == (SYSTEMS | {"buckets", "gateway", "model"}) - {
        *("minio", "seaweedfs", "rustfs"),  # through the buckets
        "ollama",  # through the model
    }


def test_the_settings_of_the_product_exist() -> None:
    """Every INGEST_ variable of the file, of its secrets and of the example is one of the settings."""
    known = {*_list_names(), *OTHER_VARIABLES}
    named = set(re.findall(r"INGEST_[A-Z0-9_]+", FILE.read_text(encoding="utf-8")))
    named |= set(re.findall(r"INGEST_[A-Z0-9_]+", (DEPLOY / "compose" / "env.example").read_text(encoding="utf-8")))
    assert named <= known
    assert len(named) > 15


def test_the_variables_of_the_example_are_those_of_the_file() -> None:
    """No variable of the example is without effect, and the file's own are all shown, with the file's defaults."""
    shown = read_example(commented=True)
    used = list_variables()
    hidden = {"VERSION", "INGEST_LOG_LEVEL", "PROMETHEUS_RETENTION"}
    assert set(shown) == set(used) - hidden | {"COMPOSE_PROFILES"}
    for name, value in shown.items():
        if not name.startswith("INGEST_") and name not in {"COMPOSE_PROFILES", "IMAGE_PREFIX"}:
            assert value == used[name], name
    assert used["VERSION"] == __version__


def test_no_secret_is_in_the_file_or_in_the_environment_of_a_container() -> None:
    """A variable whose name speaks of a secret holds a path below /run/secrets, and the service has that secret."""
    for name, service in SERVICES.items():
        files = list_secrets(service)
        for variable, value in service.get("environment", {}).items():
            path = str(value).startswith("/run/secrets")
            speaks = re.search(r"PASSWORD|SECRET|_KEY|TOKEN|CREDENTIAL|DATABASE_URL", variable)
            if speaks and value not in {"true", "false"} and variable != "AUTHENTICATION_APIKEY_USERS":
                assert path, f"{name}: {variable}"
            if path and value != "/run/secrets":
                assert Path(value).name in files, f"{name}: {value}"
        command = f"{service.get('entrypoint', '')} {service.get('command', '')}"
        for file in re.findall(r"/run/secrets/([\w.]+)", command):
            assert file in files, f"{name}: {file}"


def test_each_process_has_only_its_own_secrets() -> None:
    """Workers cannot reach the database or the API, the gateway reaches nothing, the database only itself."""
    secrets = {name: set(list_secrets(service).values()) for name, service in SERVICES.items()}
    stores = {"INGEST_QDRANT__API_KEY", "INGEST_WEAVIATE__API_KEY"}
    s3 = {"INGEST_S3__ACCESS_KEY_ID", "INGEST_S3__SECRET_ACCESS_KEY"}
    assert secrets["ray"] == s3 | stores | {"INGEST_RAY__AUTH_TOKEN"}
    assert secrets["service"] == s3 | stores | {"INGEST_RAY__AUTH_TOKEN", "INGEST_DATABASE_URL", "api_keys.json"}
    assert secrets["gateway"] == secrets["ollama"] == secrets["model"] == secrets["prometheus"] == set()
    assert secrets["minio"] == secrets["seaweedfs"] == secrets["rustfs"] == s3
    assert secrets["cli"] == s3 | {"ingest_api_key"}
    assert secrets["postgres"] == {"postgres_password"}
    assert secrets["qdrant"] == {"qdrant.yaml"}
    assert secrets["weaviate"] == {"INGEST_WEAVIATE__API_KEY"}
    assert secrets["grafana"] == {"grafana_password"}


def test_every_file_that_is_mounted_exists() -> None:
    """And no volume is declared or used alone."""
    compose = read_compose()
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
                assert volume.endswith(":ro")
            else:
                used.add(source)
    assert used == set(compose["volumes"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make compose-up` works on, elsewhere."""
    for name in ("scripts/compose.sh", "deploy/compose/env.example", "deploy/compose.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def create_secrets(checkout: Path) -> dict[str, str]:
    subprocess.run([checkout / "scripts/compose.sh", "secrets"], check=True, timeout=60)
    return {path.name: path.read_text(encoding="utf-8") for path in (checkout / "deploy/compose/secrets").iterdir()}


def test_secrets_are_created_once(checkout: Path) -> None:
    """Exactly the files of the compose file, random, behind a private directory; what exists stays."""
    first = create_secrets(checkout)
    folder = checkout / "deploy/compose/secrets"
    declared = {Path(secret["file"]).name for secret in read_compose()["secrets"].values()}
    assert set(first) == declared
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # Containers have other users, and see the owner and mode of the file: only the directory protects it.
    assert all(path.stat().st_mode & stat.S_IROTH for path in folder.iterdir())
    random = [value for name, value in first.items() if name not in {"api_keys.json", "qdrant.yaml"}]
    assert len(set(random)) == len(random)
    assert all(len(value) >= 20 and not re.search(r"\s", value) for value in random)
    (folder / "INGEST_QDRANT__API_KEY").write_text("my-own-key", encoding="utf-8")
    second = create_secrets(checkout)
    assert yaml.safe_load(second["qdrant.yaml"]) == {"service": {"api_key": "my-own-key"}}
    changed = {"INGEST_QDRANT__API_KEY", "qdrant.yaml"}
    assert {name: second[name] for name in second if name not in changed} == {
        name: first[name] for name in first if name not in changed
    }


def test_the_secrets_fit_each_other(checkout: Path) -> None:
    """The API accepts its key, and the database's URL has the database's name, user and password."""
    secrets = create_secrets(checkout)
    keys = KeyRing(checkout / "deploy/compose/secrets/api_keys.json")
    caller = asyncio.run(keys.find(secrets["ingest_api_key"]))
    assert caller is not None
    assert caller.name == "admin"
    database = SERVICES["postgres"]["environment"]
    user, name = database["POSTGRES_USER"], database["POSTGRES_DB"]
    assert secrets["INGEST_DATABASE_URL"] == f"postgresql://{user}:{secrets['postgres_password']}@postgres:5432/{name}"


def test_git_ignores_values_and_secrets() -> None:
    """They can never be committed by accident."""
    for name in ("deploy/.env", "deploy/compose/secrets/INGEST_DATABASE_URL"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False, timeout=60).returncode == 0


def test_without_compose_the_command_says_what_is_missing(checkout: Path) -> None:
    """One sentence and a link, and nothing is created."""
    tools = checkout / "tools"
    tools.mkdir()
    for tool in ("bash", "env", "dirname"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    environment = {"PATH": str(tools)}
    command = [checkout / "scripts/compose.sh", "up"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "neither 'docker compose' nor 'podman compose' found; install Docker Compose 2.20" in done.stderr
    assert not (checkout / "deploy/.env").exists()


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    """The dashboard lets Grafana choose a data source of the type that is provisioned."""
    provisioning = DEPLOY / "compose" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "files.yaml").read_text(encoding="utf-8"))["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    (dashboard,) = [source for source, target in mounts.items() if target.startswith(provider["options"]["path"])]
    variables = orjson.loads((DEPLOY / dashboard).read_bytes())["templating"]["list"]
    assert ("datasource", "prometheus") in {
        (item["type"], item["query"]) for item in variables if "query" in item and isinstance(item["query"], str)
    }


def test_prometheus_scrapes_what_the_file_starts() -> None:
    """Names and ports of services, and the alerts at the place where they are mounted."""
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = {
        target for job in config["scrape_configs"] for entry in job["static_configs"] for target in entry["targets"]
    }
    assert targets == {"service:8080", "gateway:11430"}
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert set(config["rule_files"]) <= mounted
