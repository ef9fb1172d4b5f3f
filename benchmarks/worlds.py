"""Environment of one benchmark: a real S3 server, a simulated Ollama, sinks for points, and jobs on any engine.

Jobs start at the driver, without API and dispatcher. Ray runs on a head of its own, Spark in local mode through
``spark-submit``, both as the embedded stack starts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import mimetypes
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from corpora import make_markdown
from http_server import ask, run_server
from obstore.store import S3Store
from processes import Measured, run_measured
from stacks import open_stack

import ingestion_engine
from ingestion_devstack.kubernetes.find_spark import find_java, find_spark
from ingestion_devstack.stack.credentials import load_or_make_credentials
from ingestion_devstack.stack.processes import Ports
from ingestion_devstack.stack.ray_head import plan_ray_head
from ingestion_devstack.stack.service import Home, Service
from ingestion_engine.adapters.connect import open_state_store
from ingestion_engine.domain.spec import EngineName, JobRequest
from ingestion_engine.runtime.settings import Settings
from ingestion_engine.services.specs import make_spec
from ingestion_engine.state.ledger import Ledger

BUCKET = "docs"
UPLOADS_AT_ONCE = 32
CHUNK_CHARS = 1000
CHUNKS_PER_OBJECT = 11.5
"""Chunks that this product makes from a document of ``corpora.make_markdown`` with ``CHUNK_CHARS``."""
BATCH_TEXTS = 8
"""The default of ``INGEST_EMBED__BATCH_TEXTS``."""
RAY_TASK_CPUS = 0.25
"""The head has four logical CPUs, and up to 16 partitions wait for the simulated embedder at once."""
SPARK_JAVA_OPTIONS = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"
"""Spark settings with which the stand-in operator starts drivers on one machine."""

_numbers = itertools.count(1)

Body = bytes | Iterator[bytes]
"""Bytes of an object, whole or in blocks."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """Results and resource usage of one job."""

    summary: dict[str, Any]
    measured: Measured
    """Usage of the driver's process and its children: the whole job on the local engine, the driver alone on Ray."""
    embedder: dict[str, Any]
    stores: dict[str, Any]

    @property
    def chunks(self) -> int:
        """Number of chunks written."""
        return int(self.summary["counts"]["chunks"])

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start of the driver's process, its imports included, to its summary."""
        return float(self.summary["timings"]["elapsed_s"])


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job whose spec is stored."""

    job_id: str
    ledger: Ledger
    command: list[str]
    env: dict[str, str]

    def run(self, wrap: tuple[str, ...] = ()) -> Measured:
        """Run the driver to its end."""
        return run_measured([*wrap, *self.command], env=self.env)

    def read_summary(self) -> dict[str, Any]:
        """Return the job's summary.

        Raises:
            RuntimeError: The job did not succeed.
        """
        summary = self.ledger.read_summary()
        if summary is None or summary["state"] != "succeeded":
            raise RuntimeError(f"{self.job_id} did not succeed: {summary}")
        return summary


@dataclass(slots=True)
class World:
    """Servers and settings of a benchmark; created by ``open_world``."""

    settings: Settings
    env: Mapping[str, str]
    """``INGEST_*`` variables of drivers and workers, without the embedder's addresses, which are in each job's spec."""
    ollama_urls: list[str]
    store_url: str
    folder: Path
    services: dict[str, Service] = field(default_factory=dict)

    def upload(self, objects: Iterable[tuple[str, Body]]) -> tuple[int, int]:
        """Upload objects concurrently; return their number and total size in bytes."""
        return upload_objects(self.settings, objects)

    def set_costs(self, *, request_ms: float, text_ms: float) -> None:
        """Set the cost of a request to the embedder."""
        ask(f"{self.ollama_urls[0]}/sim/reset", {"request_ms": request_ms, "text_ms": text_ms})

    def run(self, engine: EngineName, prefix: str, *, wrap: tuple[str, ...] = (), **options: Any) -> JobRun:
        """Run a job from its driver's start to its summary; counters are of this job alone.

        Args:
            engine: Where partitions run.
            prefix: Prefix of the objects.
            wrap: Command prefix such as a profiler; local engine only.
            options: As of ``prepare``.

        Raises:
            RuntimeError: The job did not succeed.
        """
        job = self.prepare(engine, prefix, **options)
        ask(f"{self.ollama_urls[0]}/sim/reset", {})
        before = ask(f"{self.store_url}/sim/counters")
        measured = job.run(wrap)
        embedder, after = ask(f"{self.ollama_urls[0]}/sim/counters"), ask(f"{self.store_url}/sim/counters")
        stores = {name: {f: n - before[name][f] for f, n in counts.items()} for name, counts in after.items()}
        return JobRun(job.read_summary(), measured, embedder, stores)

    def prepare(
        self,
        engine: EngineName,
        prefix: str,
        *,
        model: str,
        endpoints: int = 1,
        capacity: int | None = None,
        in_flight: int | None = None,
        gateways: tuple[str, ...] = (),
        parallelism: int = 1,
        **request: Any,
    ) -> PreparedJob:
        """Store the spec of a job and return how to run it.

        Args:
            engine: Where partitions run.
            prefix: Prefix of the objects.
            model: ``sim-N``.
            endpoints: How many of the embedder's endpoints it uses.
            capacity: Declared capacity of each endpoint; None declares nothing.
            in_flight: ``INGEST_EMBED__IN_FLIGHT``; None means unset.
            gateways: URLs of the gateways that it uses.
            parallelism: Partitions at once.
            request: Further fields of the request; a collection of its own by default.
        """
        number = next(_numbers)
        job_id = f"bench-{engine.value}-{number}"
        declared = "" if capacity is None else f"#{capacity}"
        urls = tuple(url + declared for url in self.ollama_urls[:endpoints])
        settings = self.settings.model_copy(
            update={
                "ollama": self.settings.ollama.model_copy(update={"urls": urls}),
                "embed": self.settings.embed.model_copy(update={"in_flight": in_flight}),
                "gateway": self.settings.gateway.model_copy(update={"url": gateways}),
            }
        )
        body = {
            "source": {"bucket": BUCKET, "prefix": prefix},
            "collection": f"bench_{number}",
            "embedding": {"model": model},
            "chunking": {"max_chars": CHUNK_CHARS, "overlap_chars": 0},
            **request,
        }
        spec = make_spec(settings, JobRequest.model_validate(body), engine, job_id, parallelism=parallelism)
        ledger = Ledger(open_state_store(settings), job_id)
        ledger.write_spec(spec)
        command, env = self._command(engine, ("--spec", ledger.spec_uri, "--attempt", "1"), parallelism)
        return PreparedJob(job_id, ledger, command, env)

    def _command(
        self, engine: EngineName, arguments: tuple[str, ...], parallelism: int
    ) -> tuple[list[str], dict[str, str]]:
        env = {**os.environ, **self.env}
        if engine is EngineName.SPARK:
            main = Path(ingestion_engine.__file__).parent / "driver" / "spark_main.py"
            env |= {"JAVA_HOME": str(find_java()), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
            conf = ("spark.ui.enabled=false", "spark.driver.host=127.0.0.1", "spark.driver.bindAddress=127.0.0.1")
            options = [part for value in conf for part in ("--conf", value)]
            submit = [str(find_spark() / "bin" / "spark-submit"), "--master", f"local[{parallelism},1]", *options]
            return [*submit, "--driver-java-options", SPARK_JAVA_OPTIONS, str(main), *arguments], env
        if engine is EngineName.RAY:
            env |= self._ray_env()
            arguments = ("--engine", engine.value, *arguments)
        return [sys.executable, "-m", "ingestion_engine.driver.entry", *arguments], env

    def _ray_env(self) -> dict[str, str]:
        """Start a Ray head on the first call; return the variables that lead a driver to it."""
        folder = self.folder / "ray"
        folder.mkdir(exist_ok=True)
        if "ray" not in self.services:
            home = Home(folder, Ports({}), load_or_make_credentials(folder / "credentials.json"))
            service = Service(plan_ray_head(home), home, self.env)
            self.services["ray"] = service
            (folder / "gcs").write_text(str(home.ports.by_name["ray-gcs"]), encoding="ascii")
            service.start()
            service.wait_until_ready()
        return {
            "RAY_ADDRESS": f"127.0.0.1:{(folder / 'gcs').read_text(encoding='ascii')}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "ray-token"),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "INGEST_RAY__TASK_CPUS": str(RAY_TASK_CPUS),
        }


@contextlib.contextmanager
def open_world(
    *, endpoints: int, slots: int = 1, request_ms: float = 0.0, text_ms: float = 0.0, **settings: Any
) -> Iterator[World]:
    """Run the servers for the duration of the context; ``settings`` are further groups of ``Settings``."""
    costs = ("--slots", str(slots), "--request-ms", str(request_ms), "--text-ms", str(text_ms))
    with (
        run_server("sim_ollama.py", "--endpoints", str(endpoints), *costs) as ollama,
        run_server("sim_stores.py") as stores,
        tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder,
    ):
        (store_url,) = stores["urls"]
        groups = {
            "ollama": {"urls": tuple(ollama["urls"])},
            "qdrant": {"url": store_url},
            "weaviate": {"url": store_url, "grpc_url": stores["grpc_url"]},
        }
        with open_stack(("s3",), with_api=False, **{**groups, **settings}) as stack:
            env = {name: value for name, value in stack.env.items() if name != "INGEST_OLLAMA__URLS"}
            world = World(stack.settings, env, ollama["urls"], store_url, Path(folder))
            try:
                yield world
            finally:
                for service in world.services.values():
                    service.stop()


def upload_objects(settings: Settings, objects: Iterable[tuple[str, Body]]) -> tuple[int, int]:
    """Upload objects concurrently; return their number and total size in bytes."""
    return asyncio.run(_upload(settings, objects))


async def _upload(settings: Settings, objects: Iterable[tuple[str, Body]]) -> tuple[int, int]:
    store = open_bucket(settings)
    free = asyncio.Semaphore(UPLOADS_AT_ONCE)
    puts = []

    async def put(key: str, body: Body) -> int:
        try:
            if isinstance(body, bytes):
                await obstore.put_async(store, key, body, attributes={"Content-Type": _content_type(key)})
                return len(body)
            return await asyncio.to_thread(_put_blocks, store, key, body)
        finally:
            free.release()

    async with asyncio.TaskGroup() as group:
        for key, body in objects:
            await free.acquire()
            puts.append(group.create_task(put(key, body)))
    return len(puts), sum(one.result() for one in puts)


def _put_blocks(store: S3Store, key: str, blocks: Iterator[bytes]) -> int:
    """Upload an object in parts; return its size in bytes."""
    sizes: list[int] = []

    def counted() -> Iterator[bytes]:
        for block in blocks:
            sizes.append(len(block))
            yield block

    obstore.put(store, key, counted(), attributes={"Content-Type": _content_type(key)})
    return sum(sizes)


def _content_type(key: str) -> str:
    return "text/markdown" if key.endswith(".md") else mimetypes.guess_type(key)[0] or "application/octet-stream"


def open_bucket(settings: Settings) -> S3Store:
    """Return a client of the embedded S3 server's bucket."""
    key, secret = settings.s3.access_key_id, settings.s3.secret_access_key
    assert key is not None
    assert secret is not None
    return S3Store(
        BUCKET,
        endpoint=settings.s3.endpoint_url,
        region=settings.s3.region,
        access_key_id=key.get_secret_value(),
        secret_access_key=secret.get_secret_value(),
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": timedelta(minutes=5)},
    )


def count_objects(seconds: float, endpoints: int, *, request_ms: float, text_ms: float) -> int:
    """Return the number of Markdown objects that keep the endpoints busy for about ``seconds``, with full batches."""
    return int(seconds * endpoints * 1000 / (request_ms / BATCH_TEXTS + text_ms) / CHUNKS_PER_OBJECT)


def list_markdown(prefix: str, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield keys and bodies of Markdown objects of about eight chunks each, the same in every run."""
    for number in range(count):
        yield f"{prefix}{number:06d}.md", make_markdown(random.Random(number))
