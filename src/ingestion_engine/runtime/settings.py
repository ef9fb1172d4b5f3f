"""Settings of the service, the driver and the workers: the only place that reads the environment.

Every variable starts with ``INGEST_``; nested names are joined by ``__`` (``INGEST_S3__ENDPOINT_URL``). Secrets may
also be files: with
``INGEST_SECRETS_DIR=/run/secrets``, the file ``/run/secrets/INGEST_S3__SECRET_ACCESS_KEY`` holds that variable. The
environment wins.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ingestion_engine.runtime.validation import describe_faults

PREFIX = "INGEST_"


class Group(BaseModel):
    """A group of settings; unknown names are refused so that a typing error does not pass silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class S3Settings(Group):
    """The buckets to read, and the state store when it is in S3."""

    endpoint_url: str | None = None
    """URL of an S3-compatible server; None means AWS itself."""
    access_key_id: SecretStr | None = None
    """None means the environment's own AWS credentials (profile, instance role, web identity)."""
    secret_access_key: SecretStr | None = None
    region: str = "us-east-1"


class OllamaSettings(Group):
    """The pool of Ollama servers; all must serve the same digest of a model."""

    urls: Annotated[tuple[str, ...], NoDecode] = ("http://127.0.0.1:11434",)
    """Comma-separated base URLs. An embedding model runs one text at a time on a server, so more servers mean more
    throughput."""
    model: str = "all-minilm"
    """Model for collections whose request names none."""

    @field_validator("urls", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(url.strip().rstrip("/") for url in value.split(",") if url.strip())
        return value


class EmbedSettings(Group):
    """The cluster-wide limit on embedding, over all jobs and engines."""

    in_flight: int | None = Field(default=None, ge=1)
    """Embedding requests at once, in all; None means four per Ollama server: two for a job that is alone, the rest for
    the next ones."""
    texts_per_second: float | None = Field(default=None, gt=0)
    """None means no limit."""
    batch_texts: int = Field(default=32, ge=1)
    """Texts per request at most (a guess)."""
    batch_chars: int = Field(default=32_000, ge=1)
    """Characters per request at most; keeps one request's time bounded."""


class QdrantSettings(Group):
    """Qdrant, spoken to over REST."""

    url: str | None = None
    """Base URL; None means that this store is not configured."""
    api_key: SecretStr | None = None


class WeaviateSettings(Group):
    """Weaviate, spoken to over REST for schemas and gRPC for data."""

    url: str | None = None
    """Base URL of REST; None means that this store is not configured."""
    grpc_url: str | None = None
    """``http://host:50051`` (or https for TLS); None means the REST host on port 50051."""
    api_key: SecretStr | None = None


class RaySettings(Group):
    """The Ray cluster, through its dashboard's Jobs API."""

    address: str | None = None
    """URL of the dashboard (``http://head:8265``); None means that Ray is not configured."""
    auth_token: SecretStr | None = None
    ship_package: bool = False
    """Upload this package as ``py_modules`` with every job instead of expecting it on the cluster."""
    pip: Annotated[tuple[str, ...], NoDecode] = ()
    """Requirements that Ray installs for the job when they are not on the cluster; comma-separated."""
    python: str = "python"
    """Interpreter that starts the driver on the cluster."""
    task_cpus: float = Field(default=1.0, ge=0)
    """CPUs that a partition's task asks Ray for."""

    @field_validator("pip", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class SparkSettings(Group):
    """Spark on Kubernetes."""

    namespace: str | None = None
    """Namespace for SparkApplications, one that the Spark operator watches; None means that Spark is not configured."""
    image: str | None = None
    """Image of driver and executors: Spark, Python, this package, and ``main_file``. None refuses every job."""
    spark_version: str = "4.3.0"
    """Version of Spark in the image; the operator only compares it with 3.0.0. Default: the version tested with."""
    main_file: str = "local:///opt/ingest/spark_main.py"
    """The driver's main file, as Spark names it; ``local://`` means a path inside the image."""
    service_account: str | None = None
    """Service account of driver and executors; the driver's must be allowed to create pods. None means the
    namespace's default."""
    secret_name: str | None = None
    """Secret whose keys are ``INGEST_*`` variables; driver and executors get all of them. None means that the image or
    the service account gives them what they need."""
    driver_cores: int = Field(default=1, ge=1)
    driver_memory: str = "1g"
    """Heap of the driver's JVM, in Java's units (``512m``, ``2g``); Spark's own minimum is 470 MiB."""
    driver_memory_overhead: str = "1g"
    """Memory of the driver beside its heap: the Python process that lists and plans lives there (a guess)."""
    executor_cores: int = Field(default=2, ge=1)
    """Partitions at once in one executor, at most; a job is spread evenly over as few executors as possible."""
    executor_memory: str = "1g"
    """Heap of an executor's JVM, which only starts Python processes and passes reports on."""
    executor_memory_overhead: str = "4g"
    """Memory of an executor beside its heap: one Python process per core, each holding objects whole while it
    parses them (a guess: 2 GiB per process)."""
    ttl_s: int = Field(default=86_400, ge=1)
    """Seconds for which Kubernetes keeps an ended attempt, with its driver's pod and log."""
    submission_retries: int = Field(default=3, ge=0)
    """How often the operator repeats a failed ``spark-submit``; reruns of drivers are the service's part."""
    submission_retry_s: int = Field(default=10, ge=1)
    """Pause before the first of them; the n-th waits n times as long."""
    pod_template: Path | None = None
    """YAML or JSON file: a pod template for driver and executors (``spec`` with ``nodeSelector``, ``tolerations``,
    ``volumes``, ...), or one for each under ``driver`` and ``executor``. See docs/spark-manifest.md."""
    kubeconfig: Path | None = None
    """None means the service's own account when it runs in a pod, else ``KUBECONFIG`` or ``~/.kube/config``."""
    context: str | None = None
    """Context of the kubeconfig; None means its current one."""
    never_started_s: float = Field(default=60.0, ge=0)
    """After so long without any state the Spark operator is reported as absent (a healthy one needs a second)."""


class ApiSettings(Group):
    """The HTTP service."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    """0 means any free port."""
    keys_file: Path | None = None
    """JSON file of API keys and what each may use; None means no authentication. See docs/operations.md."""


class WorkerSettings(Group):
    """Limits of a partition's work."""

    object_max_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """Larger objects are recorded as failed ("object_too_large")."""
    decompressed_max_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """Bound on what a compressed object may unpack to ("decompressed_too_large")."""
    parse_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds one object may take to parse ("parse_timeout"); so much for every 256 MiB begun of a larger one."""
    partition_bytes: int = Field(default=32 * 1024 * 1024, ge=1)
    partition_objects: int = Field(default=200, ge=1)
    partition_chunks: int = Field(default=2_000, ge=1)


class LeaseSettings(Group):
    """How long a dead driver holds its collection."""

    ttl_s: float = Field(default=30.0, gt=0)
    """A lease whose heartbeat stood still for so long is taken over."""
    grace_s: float = Field(default=35.0, ge=0)
    """Then the successor waits so long before it writes: the stores' write time-out (30 s) and the workers' check
    interval."""
    outage_retry_s: float = Field(default=5.0, gt=0)
    """First pause after an outage; doubles up to a minute."""


class DispatchSettings(Group):
    """How the service starts and follows jobs."""

    poll_s: float = Field(default=1.0, gt=0)
    """Pause between two looks at queued and running jobs."""
    max_attempts: int = Field(default=3, ge=1)
    """Drivers a job may use up before it fails ("driver_died")."""
    cancel_grace_s: float = Field(default=20.0, ge=0)
    """Time a canceled job's driver has to end by itself before its engine is told to stop it."""
    pending_timeout_s: float = Field(default=900.0, gt=0)
    """Time an attempt may wait for its engine to start it."""


class Settings(BaseSettings):
    """All settings. Values given to the constructor win over the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    s3: S3Settings = S3Settings()
    ollama: OllamaSettings = OllamaSettings()
    embed: EmbedSettings = EmbedSettings()
    qdrant: QdrantSettings = QdrantSettings()
    weaviate: WeaviateSettings = WeaviateSettings()
    ray: RaySettings = RaySettings()
    spark: SparkSettings = SparkSettings()
    api: ApiSettings = ApiSettings()
    worker: WorkerSettings = WorkerSettings()
    lease: LeaseSettings = LeaseSettings()
    dispatch: DispatchSettings = DispatchSettings()
    state_url: str | None = None
    """``s3://bucket/prefix`` of the state store (``file:///dir`` for one machine); required to run jobs."""
    database_url: str | None = None
    """SQLAlchemy URL of the control plane's database; None means SQLite in ``DATA_DIR``."""
    data_dir: Path = Path(".ingest")
    """Where the service and the embedded stack keep their files."""
    log_level: str = "INFO"

    @property
    def embed_in_flight(self) -> int:
        """The cluster-wide number of embedding requests at once."""
        return self.embed.in_flight or 4 * len(self.ollama.urls)

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL in force, with an async driver."""
        return self.database_url or f"sqlite+aiosqlite:///{(self.data_dir / 'jobs.db').absolute()}"

    def endpoints(self) -> dict[str, Any]:
        """The non-secret settings that driver and workers must share; frozen into every job spec."""
        return {
            "s3": {"endpoint_url": self.s3.endpoint_url, "region": self.s3.region},
            "ollama": {"urls": list(self.ollama.urls)},
            "qdrant": {"url": self.qdrant.url},
            "weaviate": {"url": self.weaviate.url, "grpc_url": self.weaviate.grpc_url},
        }

    def with_endpoints(self, endpoints: dict[str, Any]) -> Settings:
        """These settings (this process's secrets) with a spec's endpoints in place of its own."""
        groups = {}
        for name, values in endpoints.items():
            group: Group = getattr(self, name)
            groups[name] = type(group).model_validate({**dict(group), **values})
        return self.model_copy(update=groups)


class SettingsError(Exception):
    """The environment holds a setting that cannot be used; the message names the variable and what is wrong."""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and ``INGEST_SECRETS_DIR``.

    Raises:
        SettingsError: naming each variable at fault; never its value.
    """
    secrets_dir = os.environ.get("INGEST_SECRETS_DIR")
    if secrets_dir:
        for path in sorted(Path(secrets_dir).glob(f"{PREFIX}*")):
            os.environ.setdefault(path.name, path.read_text(encoding="utf-8").strip())
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(describe_faults(error, _name_variable)) from None


def _name_variable(location: Sequence[str]) -> str:
    return PREFIX + "__".join(location).upper()
