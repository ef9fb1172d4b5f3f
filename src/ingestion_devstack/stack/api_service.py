"""The plan that starts the product's HTTP service as a process of the embedded stack."""

from __future__ import annotations

import sys

from ingestion_devstack.stack.processes import LOOPBACK
from ingestion_devstack.stack.service import Home, Plan, StackError, answers
from ingestion_engine.runtime.settings import Settings

_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def plan_api(home: Home, settings: Settings) -> Plan:
    """Return the plan of ``ingest serve`` on the configured port; when none is configured, on 8080 or any free port.

    Raises:
        StackError: the configured port is in use.
    """
    port = settings.api.port
    if "port" not in settings.api.model_fields_set or port == 0:
        port = home.ports.take("api", port)
    elif not home.ports.take_exactly("api", port):
        raise StackError(f"Port {port} (INGEST_API__PORT) is in use. Choose another port, or 0 for any free one.")
    reachable = LOOPBACK if settings.api.host in _ANY else settings.api.host
    url = f"http://{reachable}:{port}"
    return Plan(
        name="api",
        title="API",
        url=url,
        what="the service of this product",
        command=(sys.executable, "-m", "ingestion_engine.cli", "serve"),
        is_ready=lambda: answers(f"{url}/livez"),
        variables={"INGEST_API__HOST": settings.api.host, "INGEST_API__PORT": str(port)},
        sees_settings=True,
    )
