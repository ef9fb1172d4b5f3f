"""The real MinIO, Ollama, Qdrant and Weaviate in the embedded stack: programs of this machine, with data of their own.

Their directories are not those of the stand-ins, because neither reads the other's files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx

from ingestion_devstack.stack.private_files import make_private
from ingestion_devstack.stack.processes import LOOPBACK
from ingestion_devstack.stack.programs import Program, find_models, has_model
from ingestion_devstack.stack.seaweedfs import STATE_BUCKET, make_variables, open_client
from ingestion_devstack.stack.seaweedfs import is_usable as has_buckets
from ingestion_devstack.stack.service import PROBE_TIMEOUT_S, Home, Plan, StackError, answers
from ingestion_engine.adapters.s3.client import Place, s3_errors
from ingestion_engine.doctor.stores import judge_version
from ingestion_engine.domain.errors import IngestionError
from ingestion_engine.domain.spec import StoreName


def plan_minio(home: Home, program: Program, buckets: tuple[str, ...]) -> Plan:
    """Return the plan of MinIO with these buckets and one for the product's state; data in ``DATA_DIR/minio``."""
    port, credentials = home.ports.take("minio", 9000), home.credentials
    url = f"http://{LOOPBACK}:{port}"
    directory = home.data_dir / "minio"
    wanted = (*buckets, STATE_BUCKET)

    def is_ready() -> bool:
        if not answers(f"{url}/minio/health/ready"):
            return False
        client = open_client(url, credentials)
        try:
            with s3_errors(Place(STATE_BUCKET)):
                existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
                for bucket in sorted(set(wanted) - existing):
                    client.create_bucket(Bucket=bucket)
        except IngestionError:
            return False
        return has_buckets(url, credentials, wanted)

    return Plan(
        name="s3",
        title="S3",
        url=url,
        what=f"MinIO, {program}; buckets {', '.join(wanted)}",
        command=(
            *(str(program.path), "server", "--quiet", "--address", f"{LOOPBACK}:{port}"),
            *("--certs-dir", str(directory / "certs"), str(directory / "data")),
        ),
        env={
            "MINIO_ROOT_USER": credentials.s3_access_key_id,
            "MINIO_ROOT_PASSWORD": credentials.s3_secret_access_key,
            "MINIO_BROWSER": "off",  # no console: it would listen on a port of its own
            "MINIO_UPDATE": "off",
        },
        not_inherited=("MINIO_",),
        is_ready=is_ready,
        variables=make_variables(url, credentials),
        prepare=lambda _variables: make_private(directory / "certs"),
    )


def plan_ollama_server(home: Home, program: Program, model: str) -> Plan:
    """Return the plan of Ollama; models of the user, or else in ``DATA_DIR/ollama-models``."""
    port = home.ports.take("ollama", 11_434)
    url = f"http://{LOOPBACK}:{port}"
    models = find_models(os.environ, home.data_dir / "ollama-models", model)
    pull = f"; without the model: OLLAMA_HOST={LOOPBACK}:{port} {program.path} pull {model}"
    return Plan(
        name="ollama",
        title="Ollama",
        url=url,
        what=f"{program}; models in {models}{'' if has_model(models, model) else pull}",
        command=(str(program.path), "serve"),
        env={"OLLAMA_HOST": f"{LOOPBACK}:{port}", "OLLAMA_MODELS": str(models)},
        is_ready=lambda: answers(f"{url}/api/version"),
        variables={"INGEST_OLLAMA__URLS": url},
    )


def plan_qdrant_server(home: Home, program: Program) -> Plan:
    """Return the plan of Qdrant; data in ``DATA_DIR/qdrant-server``."""
    port, grpc_port = home.ports.take("qdrant", 6333), home.ports.take("qdrant-grpc", 6334)
    url = f"http://{LOOPBACK}:{port}"
    directory = home.data_dir / "qdrant-server"
    key = home.credentials.qdrant_api_key
    return Plan(
        name="qdrant",
        title="Qdrant",
        url=url,
        what=str(program),
        command=(str(program.path), "--disable-telemetry"),
        env={
            "QDRANT__SERVICE__HOST": LOOPBACK,
            "QDRANT__SERVICE__HTTP_PORT": str(port),
            "QDRANT__SERVICE__GRPC_PORT": str(grpc_port),
            "QDRANT__SERVICE__API_KEY": key,
            "QDRANT__STORAGE__STORAGE_PATH": str(directory / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(directory / "snapshots"),
            "QDRANT_INIT_FILE_PATH": str(directory / "initialized"),  # else in the working directory
        },
        not_inherited=("QDRANT_",),
        is_ready=lambda: answers(f"{url}/readyz"),
        variables={"INGEST_QDRANT__URL": url, "INGEST_QDRANT__API_KEY": key},
        prepare=_make_directory(directory),
    )


def plan_weaviate_server(home: Home, program: Program) -> Plan:
    """Return the plan of Weaviate; data in ``DATA_DIR/weaviate-server``.

    Its REST port is on loopback. Weaviate cannot bind its gRPC port and those of its cluster to one address: they
    require the API key, and a password.
    """
    names = ("weaviate", "weaviate-grpc", "weaviate-gossip", "weaviate-data", "weaviate-raft", "weaviate-raft-rpc")
    known = (8081, 50_051, 7946, 7947, 8300, 8301)
    port, grpc_port, gossip, data, raft, rpc = (
        home.ports.take(name, preferred) for name, preferred in zip(names, known, strict=True)
    )
    url, grpc_url = f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{grpc_port}"
    directory = home.data_dir / "weaviate-server"
    key = home.credentials.weaviate_api_key

    def is_ready() -> bool:
        if not answers(f"{url}/v1/.well-known/ready"):
            return False
        headers = {"Authorization": f"Bearer {key}"}
        found = httpx.get(f"{url}/v1/meta", headers=headers, timeout=PROBE_TIMEOUT_S, trust_env=False)
        version = str(found.raise_for_status().json()["version"])
        judged = judge_version(StoreName.WEAVIATE, version)
        if judged is not None and not judged[0]:
            raise StackError(
                f"{program.path} cannot be used: {judged[1]} Use another one, or INGEST_STACK__WEAVIATE=off."
            )
        return True

    return Plan(
        name="weaviate",
        title="Weaviate",
        url=url,
        what=f"{program}; gRPC on port {grpc_port}, open to other machines with the API key",
        command=(str(program.path), "--scheme", "http", "--host", LOOPBACK, "--port", str(port)),
        env={
            "PERSISTENCE_DATA_PATH": str(directory),
            "GRPC_PORT": str(grpc_port),
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
            "AUTHENTICATION_APIKEY_ENABLED": "true",
            "AUTHENTICATION_APIKEY_ALLOWED_KEYS": key,
            "AUTHENTICATION_APIKEY_USERS": "ingest",
            "DEFAULT_VECTORIZER_MODULE": "none",
            "CLUSTER_HOSTNAME": "ingest",
            "CLUSTER_ADVERTISE_ADDR": LOOPBACK,
            "CLUSTER_BIND_ADDR": LOOPBACK,
            "CLUSTER_GOSSIP_BIND_PORT": str(gossip),
            "CLUSTER_DATA_BIND_PORT": str(data),
            "CLUSTER_BASIC_AUTH_USERNAME": "ingest",
            "CLUSTER_BASIC_AUTH_PASSWORD": key,
            "RAFT_PORT": str(raft),
            "RAFT_INTERNAL_RPC_PORT": str(rpc),
            "RAFT_BOOTSTRAP_EXPECT": "1",
            "GO_PROFILING_DISABLE": "true",
            "DISABLE_TELEMETRY": "true",
        },
        not_inherited=("AUTHENTICATION_", "AUTHORIZATION_", "CLUSTER_", "RAFT_", "PROMETHEUS_", "WEAVIATE_"),
        is_ready=is_ready,
        variables={
            "INGEST_WEAVIATE__URL": url,
            "INGEST_WEAVIATE__GRPC_URL": grpc_url,
            "INGEST_WEAVIATE__API_KEY": key,
        },
        prepare=_make_directory(directory),
    )


def _make_directory(directory: Path) -> Callable[[object], None]:
    return lambda _variables: make_private(directory)
