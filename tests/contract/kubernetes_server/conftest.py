"""One embedded Kubernetes API per run, with the drivers that the tests need."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kubernetes_cluster import WATCHED, Cluster, manifest
from support.servers import free_port

REAL_JOB = """
import os, sys
from pyspark.sql import SparkSession

context = SparkSession.builder.getOrCreate().sparkContext
total = context.parallelize(range(100), 4).map(lambda x: x * x).sum()
print("RESULT", total, context.master, context.appName, sys.argv[1:], flush=True)
print("ENV", os.environ["PLAIN"], os.environ["FROM_SECRET"], "KUBE_TOKEN" in os.environ, flush=True)
context.stop()
"""
SLEEPING_JOB = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("PIDS", os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
FAILING_JOB = "import sys; print('about to fail', flush=True); sys.exit(3)"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("kube") / "data", free_port())
    yield running
    running.close()


@pytest.fixture(scope="session")
def mains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mains")
    for name, text in (("real", REAL_JOB), ("sleeping", SLEEPING_JOB), ("failing", FAILING_JOB)):
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="session", autouse=True)
def slow_jobs(cluster: Cluster, mains: Path) -> None:
    """Jobs that need Spark's start begin before the first test; the last tests check them."""
    environment = {"env": [{"name": "PLAIN", "value": "plain"}], "envFrom": [{"secretRef": {"name": "login"}}]}
    driver = {"cores": 1, "memory": "512m", **environment}
    cluster.create(manifest("real", mains / "real.py", driver=driver, arguments=["a", "b c"]), WATCHED)
    cluster.create(manifest("failing", mains / "failing.py"), WATCHED)
    cluster.create(manifest("sleeping", mains / "sleeping.py"), WATCHED)
    cluster.create(manifest("podless", mains / "sleeping.py"), WATCHED)
