"""The stand-in servers of the embedded stack: Ollama, Qdrant and Weaviate."""

from __future__ import annotations

import sys

from ingestion_devstack.stack.processes import LOOPBACK
from ingestion_devstack.stack.service import Home, Plan, answers

_PACKAGE = "ingestion_devstack"


def plan_ollama(home: Home, arguments: tuple[str, ...] = ()) -> Plan:
    """Return the plan of Ollama's API over the real all-MiniLM-L6-v2; ``arguments`` are further flags of the server."""
    port = home.ports.take("ollama", 11_434)
    url = f"http://{LOOPBACK}:{port}"
    flags = ("--host", LOOPBACK, "--port", str(port))
    return Plan(
        name="ollama",
        title="Ollama",
        url=url,
        what="stand-in server over the real model all-MiniLM-L6-v2",
        command=(sys.executable, "-m", f"{_PACKAGE}.ollama.server", *flags, *arguments),
        is_ready=lambda: answers(url),
        variables={"INGEST_OLLAMA__URLS": url},
    )


def plan_qdrant(home: Home) -> Plan:
    """Return the plan of Qdrant's REST API over the real Qdrant engine; data in ``DATA_DIR/qdrant``."""
    port = home.ports.take("qdrant", 6333)
    url = f"http://{LOOPBACK}:{port}"
    flags = ("--host", LOOPBACK, "--port", str(port), "--data-dir", str(home.data_dir / "qdrant"))
    return Plan(
        name="qdrant",
        title="Qdrant",
        url=url,
        what="stand-in server over the real engine qdrant-edge",
        command=(sys.executable, "-m", f"{_PACKAGE}.qdrant.server", *flags),
        env={"QDRANT_API_KEY": home.credentials.qdrant_api_key},
        is_ready=lambda: answers(f"{url}/readyz"),
        variables={"INGEST_QDRANT__URL": url, "INGEST_QDRANT__API_KEY": home.credentials.qdrant_api_key},
    )


def plan_weaviate(home: Home) -> Plan:
    """Return the plan of Weaviate's REST and gRPC API; data in ``DATA_DIR/weaviate``."""
    port, grpc_port = home.ports.take("weaviate", 8081), home.ports.take("weaviate-grpc", 50_051)
    url, grpc_url = f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{grpc_port}"
    flags = ("--host", LOOPBACK, "--port", str(port), "--grpc-port", str(grpc_port))
    return Plan(
        name="weaviate",
        title="Weaviate",
        url=url,
        what=f"stand-in server; gRPC on port {grpc_port}",
        command=(
            *(sys.executable, "-m", f"{_PACKAGE}.weaviate.server", *flags),
            *("--data-dir", str(home.data_dir / "weaviate")),
        ),
        env={"WEAVIATE_API_KEY": home.credentials.weaviate_api_key},
        is_ready=lambda: answers(f"{url}/v1/.well-known/ready"),
        variables={
            "INGEST_WEAVIATE__URL": url,
            "INGEST_WEAVIATE__GRPC_URL": grpc_url,
            "INGEST_WEAVIATE__API_KEY": home.credentials.weaviate_api_key,
        },
    )
