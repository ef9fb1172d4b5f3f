"""Logs of pods, whole or by their last lines.

Imitates the subresource `pods/NAME/log` of Kubernetes 1.32 (`pkg/registry/core/pod/rest/log.go`). Following a log,
time stamps and byte limits are refused with 501.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ingestion_devstack.kubernetes.errors import bad_request, method_not_allowed, not_found
from ingestion_devstack.kubernetes.http import Target, check_parameters, read_number
from ingestion_devstack.kubernetes.kubelet import log_path
from ingestion_devstack.kubernetes.store import ObjectStore


class LogApi:
    """Serves `pods/NAME/log`."""

    def __init__(self, store: ObjectStore, data_dir: Path) -> None:
        self._store = store
        self._data_dir = data_dir

    async def serve(self, request: Request, target: Target) -> Response:
        """Answer one request for a log.

        Raises:
            ApiError: 404 no such pod; 400 unknown container, or one that has not started; 501 a parameter that is not
                served.
        """
        pod, query = self._store.get(target.key), request.query_params
        if request.method != "GET":
            raise method_not_allowed(target.resource, request.method.lower())
        check_parameters(query, ("container", "tailLines"))
        if pod is None:
            raise not_found(target.resource, target.name or "")
        if "containerStatuses" not in pod["status"]:
            return Response(status_code=204)  # a pod without a node
        container = pod["status"]["containerStatuses"][0]
        name = query.get("container") or container["name"]
        if name != container["name"]:
            raise bad_request(f"container {name} is not valid for pod {target.name}")
        waiting = container["state"].get("waiting")
        if waiting:
            message = f'container "{name}" in pod "{target.name}" is waiting to start: {waiting["reason"]}'
            raise bad_request(message)
        path = log_path(self._data_dir, pod)
        if not path.exists():
            return PlainTextResponse("")
        with path.open("rb") as lines:
            return PlainTextResponse(b"".join(deque(lines, maxlen=read_number(query, "tailLines"))))
