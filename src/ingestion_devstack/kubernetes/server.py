"""The embedded Spark operator: the part of the Kubernetes API that SparkApplications need, over real `spark-submit`.

    KUBE_TOKEN=... python -m ingestion_devstack.kubernetes.server --port 6443 --data-dir DIR

Imitates an API server of Kubernetes 1.32 with the Spark operator 2.5.2; each module names the sources it was read from.
It serves what the product calls, the basic calls of the official Python client, and `kubectl get`, `describe`, `logs`,
`delete` and `apply --dry-run=server`: version, discovery, sparkapplications (create, get, list, delete), pods (get,
list, delete, log), events (list) and reviews of the own access. Refusals are `Status` objects. Each application runs as
`spark-submit` in local mode and passes through the operator's states.

HTTPS only, as kubectl sends tokens over nothing else: `DATA_DIR/kubeconfig` (mode 0600, rewritten at every start) holds
address, token and authority. The bearer token comes from the environment. A wrong one is 401; a request without one is
anonymous, which is 403 except for /livez, /readyz and /version.

Every acknowledged write survives the death of the process. Drivers do not: they end with the server, and the next one
finds their pods missing and reports that as the operator does.

Not served: updates, patches, watches, following a log, selectors of labels, other resources, RBAC, executor pods
(executors run inside the driver). Such a request is refused with 404, 405 or 501, never ignored.
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
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ingestion_devstack.kubernetes import errors
from ingestion_devstack.kubernetes.access import PATH, review
from ingestion_devstack.kubernetes.config import write_kubeconfig
from ingestion_devstack.kubernetes.controllers import Controllers
from ingestion_devstack.kubernetes.discovery import discover
from ingestion_devstack.kubernetes.faults import CallFault, FaultPlan
from ingestion_devstack.kubernetes.http import Target, answer, answer_error, answer_unknown_path, parse_path, read_json
from ingestion_devstack.kubernetes.kubelet import Kubelet
from ingestion_devstack.kubernetes.logs import LogApi
from ingestion_devstack.kubernetes.operator import Operator
from ingestion_devstack.kubernetes.resources import VERBS, ResourceApi
from ingestion_devstack.kubernetes.store import ObjectStore
from ingestion_devstack.kubernetes.submit import Machine
from ingestion_devstack.kubernetes.tls import ensure_certificate

TOKEN_VARIABLE: Final = "KUBE_TOKEN"  # noqa: S105 - a name, not a token

_log = logging.getLogger(__name__)

_USER: Final = "ingest"
"""The user behind the token."""
_HEALTH: Final = ("/livez", "/readyz")
_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_DEFAULT_NAMESPACE: Final = "default"
"""Exists in every cluster; the operator does not watch it unless `--namespace` names it."""
_DRAIN_S: Final = 1
"""Time that requests may take after a signal."""
_DRIVERS_END_S: Final = 3.0
"""Time between SIGTERM and SIGKILL for drivers when the server ends; less than the stack's supervisor waits."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The parts of one server."""

    store: ObjectStore
    faults: FaultPlan
    kubelet: Kubelet
    controllers: Controllers
    namespaces: Collection[str]
    """Namespaces in which applications can be created."""


def make_cluster(machine: Machine, watched: Collection[str]) -> Cluster:
    """Open the data directory and make the parts; the operator watches the namespaces `watched`.

    Raises:
        DataDirInUseError: another server holds the directory.
    """
    store, faults = ObjectStore(machine.data_dir), FaultPlan()
    kubelet = Kubelet(store, machine, faults)
    controllers = Controllers(store, Operator(store, machine, faults, namespaces=watched), kubelet)
    return Cluster(store, faults, kubelet=kubelet, controllers=controllers, namespaces={_DEFAULT_NAMESPACE, *watched})


class Api:
    """The one endpoint: authentication, faults, and the dispatch by path."""

    def __init__(self, cluster: Cluster, machine: Machine, token: str, *, with_faults: bool) -> None:
        self._cluster = cluster
        self._token = token.encode()
        self._with_faults = with_faults
        self._resources = ResourceApi(cluster.store, cluster.namespaces, cluster.faults)
        self._logs = LogApi(cluster.store, machine.data_dir)

    async def __call__(self, request: Request) -> Response:
        """Answer any request."""
        try:
            return await self._serve(request)
        except errors.ApiError as error:
            return answer_error(error)
        except Exception:  # the top of a service: the client gets an answer, the log gets the reason
            _log.exception("a request failed", extra={"path": request.url.path})
            return answer_error(errors.internal("see the server's log"))

    async def _serve(self, request: Request) -> Response:
        path = request.url.path.rstrip("/") or "/"
        self._authenticate(request, path)
        if path in _HEALTH:
            return PlainTextResponse("ok")
        if path == "/_faults" and self._with_faults:
            return await self._serve_faults(request)
        if path == PATH:
            return await review(request, self._cluster.faults.denied)
        fault = self._cluster.faults.next_call(request.method, path)
        if fault is not None:
            await asyncio.sleep(fault.delay_s)
            if fault.status is not None:
                return _answer_fault(fault, request)
        document = discover(path)
        if document is not None:
            return answer(document) if request.method == "GET" else answer_unknown_path()
        target = parse_path(path)
        if target is None:
            return answer_unknown_path()
        if _name_permission(request, target) in self._cluster.faults.denied:
            raise _forbid(request, _USER)
        serve = self._logs.serve if target.subresource == "log" else self._resources.serve
        return await serve(request, target)

    def _authenticate(self, request: Request, path: str) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            if path not in (*_HEALTH, "/version"):
                raise _forbid(request, "system:anonymous")
        elif not hmac.compare_digest(token.strip().encode(), self._token):
            raise errors.unauthorized()

    async def _serve_faults(self, request: Request) -> Response:
        if request.method == "POST":
            self._cluster.faults.arm(await read_json(request) or {})
            self._cluster.controllers.enqueue_all()
        return answer(self._cluster.faults.model_dump())


def _answer_fault(fault: CallFault, request: Request) -> Response:
    """Return the refusal of an injected fault in the form of a real API server."""
    if fault.status == 401:
        return answer_error(errors.unauthorized())
    if fault.status == 403:
        return answer_error(_forbid(request, _USER))
    if fault.status == 429:  # plain text, from the API server's flow control
        text = "Too many requests, please try again later.\n"
        return PlainTextResponse(text, status_code=429, headers={"Retry-After": "1"})
    return answer_error(errors.internal("injected fault"))


def _name_permission(request: Request, target: Target) -> str:
    """Return the permission that a request requires, as a Role grants it: `get pods/log`."""
    verb = VERBS.get((request.method, target.name is not None), request.method.lower())
    return f"{verb} {target.resource.plural}" + (f"/{target.subresource}" if target.subresource else "")


def _forbid(request: Request, user: str) -> errors.ApiError:
    """The refusal of a request by role-based access control."""
    target = parse_path(request.url.path)
    if target is None:
        return errors.forbidden_path(user, request.method.lower(), request.url.path)
    verb = VERBS.get((request.method, target.name is not None), request.method.lower())
    return errors.forbidden(
        user,
        verb,
        target.resource,
        name=target.name or "",
        namespace=target.namespace,
        subresource=target.subresource,
    )


def make_app(cluster: Cluster, machine: Machine, token: str, *, with_faults: bool = False) -> Starlette:
    """Return the application; the operator and its drivers run as long as it does."""

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


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kubernetes_server", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--port", type=int, default=6443, help="port on 127.0.0.1; 0 means any free one, printed")
    parser.add_argument("--data-dir", type=Path, required=True, help="directory of objects, logs, secrets/NAME/KEY")
    parser.add_argument("--namespace", required=True, help="namespace that the operator watches")
    parser.add_argument("--file", action="append", default=[], metavar="PATH=FILE", help="a file of the image")
    parser.add_argument("--java-home", type=Path, help="the only Java to check")
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
        sys.stderr.write(
            f"{TOKEN_VARIABLE} is not set. It is required: every client of this server may run programs.\n"
        )
        return 2
    os.umask(0o077)  # manifests and logs are the user's own
    files = {path: Path(real) for path, _, real in (entry.partition("=") for entry in arguments.file)}
    machine = Machine(arguments.data_dir.resolve(), files, arguments.java_home)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after its own clean stop
    cluster = make_cluster(machine, {arguments.namespace})
    certificate = ensure_certificate(machine.data_dir)
    with socket.create_server(("127.0.0.1", arguments.port), backlog=2048) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        write_kubeconfig(
            machine.data_dir / "kubeconfig",
            url,
            token=token,
            namespace=arguments.namespace,
            authority=certificate.authority.read_bytes(),
        )
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
        uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
