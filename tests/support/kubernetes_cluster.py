"""The embedded Kubernetes API by the official client, and SparkApplications to put there."""

import json
import secrets
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import psutil
import pytest
from kubernetes.client.exceptions import ApiException

from ingestion_devstack.kubernetes import states
from support.servers import RunningServer, start_command
from support.waiting import wait_for

GROUP, VERSION, PLURAL = "sparkoperator.k8s.io", "v1beta2", "sparkapplications"
WATCHED, UNWATCHED = "spark", "default"
DEADLINE_S = 60


class Cluster:
    """One server and the official client's view of it."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.token = secrets.token_urlsafe(16)
        self.port = port
        self.server = self.start()
        self.client = kubernetes.config.new_client_from_config(str(data_dir / "kubeconfig"))
        self.custom = kubernetes.client.CustomObjectsApi(self.client)
        self.core = kubernetes.client.CoreV1Api(self.client)
        self.http = httpx.Client(
            base_url=self.server.url,
            headers={"Authorization": f"Bearer {self.token}"},
            verify=ssl.create_default_context(cafile=data_dir / "tls/ca.crt"),
        )

    def start(self) -> RunningServer:
        url = f"https://127.0.0.1:{self.port}"
        module = "ingestion_devstack.kubernetes.server"
        arguments = ["--port", str(self.port), "--data-dir", str(self.data_dir), "--namespace", WATCHED, "--faults"]

        def is_ready() -> bool:
            return httpx.get(f"{url}/readyz", verify=False, timeout=2).status_code == 200

        command = [sys.executable, "-m", module, *arguments]
        log = self.data_dir.parent / f"{self.data_dir.name}.log"
        return start_command("kube", command, url=url, log=log, env={"KUBE_TOKEN": self.token}, is_ready=is_ready)

    def close(self) -> None:
        self.http.close()
        self.client.close()
        self.server.stop()

    def create(self, body: dict[str, Any], namespace: str = UNWATCHED, **options: Any) -> Any:
        return self.custom.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, body, **options)

    def get(self, name: str, namespace: str = UNWATCHED) -> Any:
        return self.custom.get_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)

    def find(self, namespace: str = UNWATCHED, **options: Any) -> Any:
        return self.custom.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, **options)

    def delete(self, name: str, namespace: str = UNWATCHED, **options: Any) -> Any:
        return self.custom.delete_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name, **options)

    def state(self, name: str) -> str:
        return states.state_of(self.get(name, WATCHED))

    def log(self, name: str, **options: Any) -> str:
        return str(self.core.read_namespaced_pod_log(f"{name}-driver", WATCHED, **options))

    def fault(self, **faults: Any) -> None:
        self.http.post("/_faults", json=faults).raise_for_status()

    def reach(self, name: str, state: str) -> dict[str, Any]:
        """The application's status, once it is in this state."""
        wait_for(lambda: self.state(name) == state)
        return dict(self.get(name, WATCHED)["status"])

    def events(self, name: str) -> list[str]:
        """Reasons of an application's events, oldest first, found as `kubectl describe` finds them."""
        selector = f"involvedObject.name={name},involvedObject.kind=SparkApplication"
        found = self.core.list_namespaced_event(WATCHED, field_selector=selector, limit=500).items
        return [event.reason for event in sorted(found, key=lambda event: int(event.metadata.resource_version))]


def manifest(name: str, main: Path | str = "/no/main.py", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SparkApplication",
        "metadata": {"name": name, "labels": {"job": name[:63]}},
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "sparkVersion": "4.0.0",
            "image": "registry.example/ingest:1",
            "mainApplicationFile": f"local://{main}",
            "restartPolicy": {
                "type": "OnFailure",
                "onSubmissionFailureRetries": 1,
                "onSubmissionFailureRetryInterval": 1,
            },
            "driver": {"cores": 1, "memory": "512m"},
            "executor": {"cores": 1, "instances": 2, "memory": "512m"},
            **spec,
        },
    }


def refusal(call: Callable[[], Any]) -> tuple[int, dict[str, Any]]:
    with pytest.raises(ApiException) as caught:
        call()
    return int(caught.value.status), json.loads(caught.value.body)


def lives(pid: int) -> bool:
    """Whether a process runs; one that is dead and waits for its parent to notice does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sleeping_pids(cluster: Cluster, name: str) -> list[int]:
    """Process ids of a driver that sleeps, and of a child of it in a session of its own."""

    def look() -> list[int]:
        if cluster.state(name) != states.RUNNING:
            return []
        lines = [line.split() for line in cluster.log(name).splitlines() if line.startswith("PIDS")]
        return [int(pid) for pid in lines[0][1:]] if lines else []

    return list(wait_for(look))
