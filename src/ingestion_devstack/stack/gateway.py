"""The plan that starts the product's embedding gateway as a process of the embedded stack."""

from __future__ import annotations

import sys

from ingestion_devstack.stack.processes import LOOPBACK
from ingestion_devstack.stack.service import OF_THE_SERVICE, Home, Plan, answers


def plan_gateway(home: Home) -> Plan:
    """Return the plan of ``ingest gateway`` in front of the stack's Ollama servers, or of those that are configured."""
    port = home.ports.take("gateway", 11_430)
    url = f"http://{LOOPBACK}:{port}"
    return Plan(
        name="gateway",
        title="Gateway",
        url=url,
        what="the embedding gateway of this product; Ollama clients may use its URL",
        command=(sys.executable, "-m", "ingestion_engine.cli", "gateway", "--host", LOOPBACK, "--port", str(port)),
        is_ready=lambda: answers(f"{url}/livez"),
        variables={"INGEST_GATEWAY__URL": url},
        sees_settings=True,
        needs_no=(*OF_THE_SERVICE, "INGEST_S3__", "INGEST_QDRANT__", "INGEST_WEAVIATE__", "INGEST_RAY__"),
    )
