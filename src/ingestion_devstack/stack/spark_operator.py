"""The embedded Spark operator as a server of the stack; a secret gives its drivers the stack's credentials."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import ingestion_engine
from ingestion_devstack.kubernetes.config import write_secret
from ingestion_devstack.kubernetes.find_spark import find_java, find_spark
from ingestion_devstack.kubernetes.tls import ensure_certificate
from ingestion_devstack.stack.processes import LOOPBACK
from ingestion_devstack.stack.service import Home, Plan, answers

NAMESPACE: Final = "ingest"
_SECRET: Final = "ingest-credentials"  # noqa: S105 - a name, not a secret
_IMAGE: Final = "ingestion-engine:this-machine"
"""Nothing is pulled: drivers run with this Python and this package."""
_MAIN_FILE: Final = "/opt/ingest/spark_main.py"
_CREDENTIALS: Final = (
    "INGEST_S3__ACCESS_KEY_ID",
    "INGEST_S3__SECRET_ACCESS_KEY",
    "INGEST_QDRANT__API_KEY",
    "INGEST_WEAVIATE__API_KEY",
)
"""Credentials of drivers and workers; everything else is in a job's spec."""


def plan_kube(home: Home, arguments: tuple[str, ...] = ()) -> Plan:
    """Return the plan of the Kubernetes stand-in over real ``spark-submit``; ``arguments`` are further flags of it.

    Raises:
        SparkMissingError: Java or PySpark is missing; the message names the package to install.
    """
    java = find_java()
    find_spark()
    data_dir = home.data_dir / "kube"
    data_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
    authority = ensure_certificate(data_dir).authority
    port = home.ports.take("spark", 6443)
    url = f"https://{LOOPBACK}:{port}"
    main_file = Path(ingestion_engine.__file__).parent / "driver" / "spark_main.py"
    return Plan(
        name="spark",
        title="Spark",
        url=url,
        what=f"stand-in for Kubernetes and the Spark operator, real Spark in local mode; kubeconfig: "
        f"{data_dir / 'kubeconfig'}",
        command=(
            *(sys.executable, "-m", "ingestion_devstack.kubernetes.server", "--port", str(port)),
            *("--data-dir", str(data_dir), "--namespace", NAMESPACE, "--java-home", str(java)),
            *("--file", f"{_MAIN_FILE}={main_file}", *arguments),
        ),
        env={"KUBE_TOKEN": home.credentials.kube_token},
        prepare=lambda env: write_secret(data_dir, _SECRET, pick_credentials(env)),
        is_ready=lambda: answers(f"{url}/readyz", trusting=ssl.create_default_context(cafile=authority)),
        variables={
            "INGEST_SPARK__NAMESPACE": NAMESPACE,
            "INGEST_SPARK__IMAGE": _IMAGE,
            "INGEST_SPARK__MAIN_FILE": f"local://{_MAIN_FILE}",
            "INGEST_SPARK__SECRET_NAME": _SECRET,
            "INGEST_SPARK__KUBECONFIG": str(data_dir / "kubeconfig"),
        },
    )


def pick_credentials(env: Mapping[str, str]) -> dict[str, str]:
    """Return the content of the drivers' secret: the stack's credentials, and AWS's own variables if there are any.

    Also URLs of the user's own servers that have a password: a spec leaves it out.
    """
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    urls = {
        name: value
        for name, value in env.items()
        if name.endswith(("URL", "URLS")) and "@" in value and name != "INGEST_DATABASE_URL"
    }
    return {**aws, **urls, **{name: env[name] for name in _CREDENTIALS if name in env}}
