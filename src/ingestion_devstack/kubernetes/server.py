"""The embedded Spark operator: the slice of the Kubernetes API that SparkApplications need, over real `spark-submit`.

    KUBE_TOKEN=... python -m ingestion_devstack.kubernetes.server --host 127.0.0.1 --port 6443 --data-dir DIR

It serves what the official Python client and kubectl use: version, discovery, sparkapplications (create, get, list,
watch, update, patch, delete, status), pods (get, list, watch, delete, log), events, namespaces; errors are `Status`
objects. Each application runs as `spark-submit` in local mode and walks through the operator's states.

HTTPS only, as kubectl sends tokens over nothing else: `DATA_DIR/kubeconfig` (mode 0600, rewritten at every start) holds
address, token and authority, `DATA_DIR/tls/ca.crt` the authority alone. The bearer token comes from the environment; a
request without the right one is 401 (anonymous access is off, but for /livez, /readyz, /healthz and /version).

Everything acknowledged survives the death of the process. Drivers do not: they end with the server, and the next one
finds their pods gone and reports that as the operator does.

Not here: server-side apply, protobuf, deletecollection, quotas, executor pods (executors run inside the driver),
RBAC. What is not served is refused, never ignored.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ingestion_devstack.kubernetes import errors
from ingestion_devstack.kubernetes.config import write_kubeconfig
from ingestion_devstack.kubernetes.controllers import Controllers
from ingestion_devstack.kubernetes.discovery import discover
from ingestion_devstack.kubernetes.faults import CallFault, FaultPlan
from ingestion_devstack.kubernetes.http import (
    NAMESPACES,
    answer,
    answer_error,
    answer_unknown_path,
    parse_path,
    read_json,
)
from ingestion_devstack.kubernetes.kubelet import Kubelet
from ingestion_devstack.kubernetes.logs import LogApi
from ingestion_devstack.kubernetes.operator import Operator
from ingestion_devstack.kubernetes.resources import ResourceApi
from ingestion_devstack.kubernetes.schema import application_schema
from ingestion_devstack.kubernetes.states import rfc3339
from ingestion_devstack.kubernetes.store import ObjectStore
from ingestion_devstack.kubernetes.submit import Machine
from ingestion_devstack.kubernetes.tls import ensure_certificate

TOKEN_VARIABLE: Final = "KUBE_TOKEN"  # noqa: S105 - a name, not a token

_log = logging.getLogger(__name__)

_HEALTH: Final = ("/livez", "/readyz", "/healthz")
_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_DRAIN_S: Final = 1
"""How long requests may take after a signal; watches and followed logs are ended at once."""
_DRIVERS_END_S: Final = 3.0
"""Between SIGTERM and SIGKILL for drivers when the server ends; below the patience of the stack's supervisor."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The parts of one server."""

    store: ObjectStore
    faults: FaultPlan
    kubelet: Kubelet
    operator: Operator
    controllers: Controllers


def make_cluster(machine: Machine, namespaces: list[str]) -> Cluster:
    """Open the data directory and put the parts together; `namespaces` are those the operator watches.

    Raises:
        DataDirInUseError: another server holds the directory.
    """
    store, faults = ObjectStore(machine.data_dir), FaultPlan()
    for name in sorted({"default", "kube-system", *namespaces}):
        if store.get((NAMESPACES.plural, "", name)) is None:
            metadata = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": rfc3339(datetime.now(UTC))}
            value = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata, "status": {"phase": "Active"}}
            store.put(NAMESPACES.plural, value)
    kubelet = Kubelet(store, machine, faults)
    operator = Operator(store, machine, namespaces=namespaces, faults=faults)
    return Cluster(store, faults, kubelet, operator, Controllers(store, operator, kubelet))


class Api:
    """The one endpoint: authentication, faults, and where each path goes."""

    def __init__(self, cluster: Cluster, machine: Machine, token: str, *, with_faults: bool) -> None:
        self._cluster = cluster
        self._token = token.encode()
        self._with_faults = with_faults
        self._resources = ResourceApi(cluster.store, cluster.operator.note_change)
        self._logs = LogApi(cluster.store, machine.data_dir)

    async def __call__(self, request: Request) -> Response:
        """Answer any request."""
        try:
            return await self._serve(request)
        except errors.ApiError as error:
            return answer_error(error)
        except Exception:  # the top of a service: the client gets an answer, the log the reason
            _log.exception("a request failed", extra={"path": request.url.path})
            return answer_error(errors.internal("see the server's log"))

    async def _serve(self, request: Request) -> Response:
        path = request.url.path.rstrip("/") or "/"
        self._authenticate(request, path)
        if path in _HEALTH:
            return PlainTextResponse("ok")
        if path == "/_faults" and self._with_faults:
            return await self._serve_faults(request)
        fault = self._cluster.faults.next_call(request.method, path)
        if fault is not None:
            await asyncio.sleep(fault.delay_s)
            if fault.status is not None:
                return _answer_fault(fault, request)
        document = discover(path)
        if document is not None:
            return answer(document) if request.method == "GET" else answer_error(errors.method_not_allowed())
        target = parse_path(path)
        if target is None:
            return answer_unknown_path()
        serve = self._logs.serve if target.subresource == "log" else self._resources.serve
        return await serve(request, target)

    def _authenticate(self, request: Request, path: str) -> None:
        header = request.headers.get("authorization")
        if header is None and path in (*_HEALTH, "/version"):
            return
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token):
            raise errors.unauthorized()

    async def _serve_faults(self, request: Request) -> Response:
        if request.method == "POST":
            self._cluster.faults.arm(await read_json(request) or {})
            self._cluster.controllers.enqueue_all()
        return answer(self._cluster.faults.as_json())


def _answer_fault(fault: CallFault, request: Request) -> Response:
    """The refusal of an injected fault, as a real API server would look."""
    target = parse_path(request.url.path)
    if fault.status == 401:
        return answer_error(errors.unauthorized())
    if fault.status == 403:
        verb = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}.get(request.method, "delete")
        resource, namespace, name = (
            (target.resource, target.namespace or "", target.name or "") if target else (None, "", "")
        )
        return answer_error(errors.forbidden(resource, verb, namespace, name))
    if fault.status == 429:  # plain text, from the API server's flow control
        text = "Too many requests, please try again later.\n"
        return PlainTextResponse(text, status_code=429, headers={"Retry-After": "1"})
    if fault.status == 503:
        message = "the server is currently unable to handle the request"
        return answer_error(errors.ApiError(503, "ServiceUnavailable", message))
    return answer_error(
        errors.ApiError(fault.status or 500, "InternalError", "Internal error occurred: injected fault")
    )


def make_app(cluster: Cluster, machine: Machine, token: str, *, with_faults: bool = False) -> Starlette:
    """The application; while it runs, so do the operator and its drivers."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        working = asyncio.create_task(cluster.controllers.run(), name="controllers")
        try:
            yield
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await cluster.kubelet.stop(_DRIVERS_END_S)
            cluster.store.close()

    api = Api(cluster, machine, token, with_faults=with_faults)
    return Starlette(routes=[Route("/{path:path}", api.__call__, methods=_METHODS)], lifespan=lifespan)


class _Server(uvicorn.Server):
    """Ends open watches before it waits for requests to end."""

    def __init__(self, config: uvicorn.Config, store: ObjectStore) -> None:
        super().__init__(config)
        self._store = store

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop as uvicorn does, without cutting streams in the middle."""
        self._store.end_streams()
        await super().shutdown(sockets)


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kube_server", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6443, help="0: any free one, printed")
    parser.add_argument("--data-dir", type=Path, required=True, help="objects, logs, secrets/NAME/KEY, image/PATH")
    parser.add_argument("--namespace", action="append", help="watched by the operator; may be repeated (default)")
    parser.add_argument("--file", action="append", default=[], metavar="PATH=FILE", help="a file of the image")
    parser.add_argument("--java-home", type=Path, help="the only Java to look at")
    parser.add_argument("--max-cores", type=int, default=16, help="bound of executors x cores")
    parser.add_argument("--max-memory-mb", type=int, default=1024, help="bound of a driver's heap")
    parser.add_argument("--faults", action="store_true", help="serve /_faults")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then return 0; 2 when there is no token.

    Raises:
        OSError: the port is taken, or the data directory is in use or cannot be written.
    """
    arguments = _parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        sys.stderr.write(f"{TOKEN_VARIABLE} is not set: who may talk to this server may run programs\n")
        return 2
    os.umask(0o077)  # manifests and logs are the user's own
    files = {path: Path(real) for path, _, real in (entry.partition("=") for entry in arguments.file)}
    machine = Machine(
        arguments.data_dir.resolve(), files, arguments.java_home, arguments.max_cores, arguments.max_memory_mb
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its own clean stop
    application_schema()  # now rather than in the first request
    namespaces = arguments.namespace or ["default"]
    cluster = make_cluster(machine, namespaces)
    certificate = ensure_certificate(machine.data_dir, arguments.host)
    with socket.create_server((arguments.host, arguments.port), backlog=2048) as listener:
        host, port = listener.getsockname()[:2]
        url = f"https://{host}:{port}"
        write_kubeconfig(machine.data_dir / "kubeconfig", url, token, namespaces[0], certificate.authority.read_bytes())
        sys.stdout.write(f"Kubernetes stand-in on {url}\n")
        sys.stdout.flush()
        app = make_app(cluster, machine, token, with_faults=arguments.faults)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_DRAIN_S,
            ssl_certfile=certificate.certificate,
            ssl_keyfile=certificate.key,
        )
        _Server(config, cluster.store).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
