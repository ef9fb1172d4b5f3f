"""Settings of the service, the driver and the workers: the only module that reads the environment.

Every variable starts with ``INGEST_``; nested names are joined by ``__`` (``INGEST_S3__ENDPOINT_URL``). Secrets can
also be files: with ``INGEST_SECRETS_DIR=/run/secrets``, the file ``/run/secrets/INGEST_S3__SECRET_ACCESS_KEY`` contains
the value of that variable. The environment overrides files. Files never get into the environment: child processes
would inherit them.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from ingestion_engine.runtime.server_urls import count_servers, hide_credentials, parse_servers, restore_credentials
from ingestion_engine.runtime.telemetry import get_logger
from ingestion_engine.runtime.tls import check_ca_file
from ingestion_engine.runtime.validation import describe_faults

PREFIX = "INGEST_"
OTHER_VARIABLES: Final = (
    "INGEST_API_KEY",
    "INGEST_API_URL",
    "INGEST_SECRETS_DIR",
    "INGEST_STACK_VARIABLES",
    *(f"INGEST_STACK__{name}" for name in ("MINIO", "OLLAMA", "QDRANT", "WEAVIATE")),
)
"""Variables that are no settings: those of the client, the directory of secrets, and the embedded stack's own: its
mark, and the programs that it runs."""

_NEAR: Final = 0.8
"""Similarity (``difflib``) from which an unknown name is a typing error for a known one: ``STATEURL`` and ``STATE_URL``
have 0.94, ``DATABASE`` and ``DATABASE_URL`` 0.80; unrelated names of the table stay below 0.75."""

_SERVICE_LINK: Final = re.compile(
    r"_(?:SERVICE_HOST|SERVICE_PORT|PORT|PORT_\d+_(?:TCP|UDP|SCTP)(?:_PROTO|_PORT|_ADDR)?)\Z|_SERVICE_PORT_"
)
"""Ends of the variables that Kubernetes sets in every pod for a service whose name starts with ``ingest``."""

_FIELD: Final = re.compile(r'field "(\w+)"')
"""Name of the group in an error of pydantic-settings for a variable that is no JSON."""

_variables: ContextVar[Mapping[str, str] | None] = ContextVar("variables", default=None)
"""Variables from which ``load_settings`` makes settings at this moment, in lower case; None means the environment."""

log = get_logger(__name__)


class Group(BaseModel):
    """A group of settings. Unknown names are refused, so that a typing error does not pass silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TlsSettings(Group):
    """Trust in the certificates of all servers."""

    ca_file: Path | None = None
    """PEM file with the authorities that every client trusts, instead of the usual ones. Unset means the usual ones.
    See docs/operate/secrets.md."""

    @field_validator("ca_file")
    @classmethod
    def _check(cls, value: Path | None) -> Path | None:
        if value is not None:
            check_ca_file(value)
        return value


class S3Settings(Group):
    """The buckets to read, and the state store when it is in S3."""

    endpoint_url: str | None = None
    """URL of an S3-compatible server. Unset means AWS."""
    access_key_id: SecretStr | None = None
    """Access key. Unset means the AWS credentials of the environment (profile, instance role, web identity)."""
    secret_access_key: SecretStr | None = None
    """Secret of the access key."""
    region: str = "us-east-1"
    """Region of the buckets; S3-compatible servers mostly ignore it."""

    @property
    def server_url(self) -> str | None:
        """``endpoint_url`` as clients use it and others may read it: without an account, which S3 has no use for,
        because requests are signed.
        """
        return None if self.endpoint_url is None else hide_credentials(self.endpoint_url)


def _split_urls(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(url.strip().rstrip("/") for url in value.split(",") if url.strip())
    return value


def _check_urls(value: tuple[str, ...]) -> tuple[str, ...]:
    parse_servers(value)
    return value


ServerUrls = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_urls), AfterValidator(_check_urls)]
"""URLs of servers, comma-separated in the environment."""


class OllamaSettings(Group):
    """The pool of Ollama servers; all must serve the same digest of a model."""

    urls: ServerUrls = ("http://127.0.0.1:11434",)
    """Comma-separated base URLs. An embedding model processes one text at a time on a server, so more servers mean more
    throughput. ``http://host:port#8`` declares that the URL processes up to 8 requests at once: it counts as 8 servers.
    ``dns+http://name:port`` stands for every address of a name. See docs/operations.md."""
    model: str = "all-minilm"
    """Model for requests that name none."""


class EmbedSettings(Group):
    """The cluster-wide limits on embedding, over all jobs and engines."""

    in_flight: int | None = Field(default=None, ge=1)
    """Maximum number of embedding requests in flight, over all jobs; with a gateway also over searches. Unset means
    four per Ollama server, of which a job that runs alone is granted half, but at least one request per partition; with
    a gateway it means no limit but what the servers can use."""
    texts_per_second: float | None = Field(default=None, gt=0)
    """Maximum number of texts embedded per second, over all jobs; with a gateway also over searches, and exact in every
    second. Unset means no limit."""
    batch_texts: int = Field(default=8, ge=1)
    """Maximum number of texts per request. An Ollama server embeds one text after another: 8 give 98 % of the highest
    rate that it reaches, and a search behind them waits a quarter as long as behind 32."""
    batch_chars: int = Field(default=32_000, ge=1)
    """Maximum number of characters per request; limits the duration of a request."""


CREATION_FIELDS: Final = ("shards", "replication_factor", "quantization")
"""Settings of both stores that are used once, when a job creates its collection; those of the job are used."""


class QdrantSettings(Group):
    """Qdrant, over REST."""

    url: str | None = None
    """Base URL. Unset means that this store is not configured."""
    api_key: SecretStr | None = None
    """API key. Unset means that the server requires none."""
    shards: int | None = Field(default=None, ge=1)
    """Number of shards of collections that jobs create. Unset means the server's default."""
    replication_factor: int | None = Field(default=None, ge=1)
    """Number of copies of each shard of collections that jobs create. Unset means the server's default."""
    quantization: Literal["scalar", "product", "binary"] | None = None
    """Quantisation of collections that jobs create: ``scalar``, ``product`` or ``binary``. The original vectors are
    kept, so comparisons stay exact; searches become approximate. Unset means the server's default."""


class WeaviateSettings(Group):
    """Weaviate, over REST for schemas and gRPC for data."""

    url: str | None = None
    """Base URL of the REST API. Unset means that this store is not configured."""
    grpc_url: str | None = None
    """URL of the gRPC API, ``http://host:50051`` (or https for TLS). Unset means the REST host on port 50051."""
    api_key: SecretStr | None = None
    """API key. Unset means that the server requires none."""
    shards: int | None = Field(default=None, ge=1)
    """Number of shards of classes that jobs create. Unset means the server's default."""
    replication_factor: int | None = Field(default=None, ge=1)
    """Number of copies of each shard of classes that jobs create. Unset means the server's default."""
    quantization: Literal["rq", "sq", "pq", "bq", "none"] | None = None
    """Compression of the vector index of classes that jobs create: ``rq``, ``sq``, ``pq``, ``bq`` or ``none``. The
    original vectors are kept, so comparisons stay exact. Unset means the server's default."""


class RaySettings(Group):
    """The Ray cluster, through the Jobs API of its dashboard."""

    address: str | None = None
    """URL of the dashboard (``http://head:8265``). Unset means that Ray is not configured."""
    auth_token: SecretStr | None = None
    """Token of Ray's token authentication. Unset means that the dashboard requires none."""
    ship_package: bool = False
    """Upload this package as ``py_modules`` with every job, for clusters where it is not installed."""
    pip: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated requirements that Ray installs for the job, for clusters where they are not installed."""
    python: str = "python"
    """Python interpreter of the driver on the cluster."""
    task_cpus: float = Field(default=1.0, ge=0)
    """CPUs that the task of a partition requests from Ray."""
    max_jobs: int | None = Field(default=None, ge=1)
    """Maximum number of jobs under way on Ray; the others wait in the service. Unset means 16 with a gateway (a driver
    takes about 200 MiB on the head), and no limit but that on embedding without one."""

    @field_validator("pip", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


_MEMORY = re.compile(r"0*[1-9][0-9]*(b|[kmgtp]b?)?", re.IGNORECASE)
"""An amount of memory as Spark reads it (``JavaUtils.byteStringAs`` of Spark 4); without a unit in MiB."""


def _check_memory(value: str) -> str:
    if _MEMORY.fullmatch(value) is None:
        raise ValueError("must be a whole number with a unit of Java, for example 512m or 2g")
    return value


JavaMemory = Annotated[str, AfterValidator(_check_memory)]

_LABEL_PART: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL: Final = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL_PART}=({_LABEL_PART})?")
"""``key=value`` as Kubernetes accepts it for a label: an optional DNS name before the key's ``/``, an empty value."""


def _split_labels(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_labels(value: tuple[str, ...]) -> tuple[str, ...]:
    for label in value:
        if _LABEL.fullmatch(label) is None:
            raise ValueError(f"{label!r} is not a label of Kubernetes in the form key=value")
    return value


Labels = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_labels), AfterValidator(_check_labels)]
"""Labels of Kubernetes, ``key=value``, comma-separated in the environment."""


class SparkSettings(Group):
    """Spark on Kubernetes."""

    namespace: str | None = None
    """Namespace of the SparkApplications, watched by the Spark operator. Unset means that Spark is not configured."""
    image: str | None = None
    """Image of driver and executors, with Spark, Python, this package and ``main_file``. Unset means that every job is
    refused."""
    spark_version: str = "4.3.0"
    """Version of Spark in the image; the operator only compares it with 3.0.0. The default is the tested version."""
    main_file: str = "local:///opt/ingest/spark_main.py"
    """URI of the driver's main file; ``local://`` means a path in the image."""
    service_account: str | None = None
    """Service account of driver and executors; the driver must be allowed to create pods. Unset means the default
    account of the namespace."""
    secret_name: str | None = None
    """Secret with ``INGEST_*`` variables as keys; driver and executors receive all of them. Unset means that the image
    or the service account provides the credentials."""
    labels: Labels = ()
    """Comma-separated ``key=value`` labels of every SparkApplication, which the operator copies to its pods; for
    example ``kueue.x-k8s.io/queue-name=batch``. See docs/spark-manifest.md."""
    driver_cores: int = Field(default=1, ge=1)
    """CPU cores of the driver."""
    max_jobs: int | None = Field(default=None, ge=1)
    """Maximum number of jobs under way on Spark; the others wait in the service. Unset means 8 with a gateway (each has
    pods of its own), and no limit but that on embedding without one."""
    driver_memory: JavaMemory = "1g"
    """Heap of the driver's JVM, in units of Java (``512m``, ``2g``); the minimum of Spark is 470 MiB."""
    driver_memory_overhead: JavaMemory = "1g"
    """Memory of the driver outside the heap, for the Python process that lists and plans (a guess)."""
    executor_cores: int = Field(default=2, ge=1)
    """CPU cores of an executor, and so its maximum number of partitions processed at once. A job is spread evenly over
    as few executors as possible."""
    executor_memory: JavaMemory = "1g"
    """Heap of an executor's JVM, which only starts Python processes and forwards reports."""
    executor_memory_overhead: JavaMemory = "4g"
    """Memory of an executor outside the heap, for one Python process per core, each of which holds whole objects while
    it parses them (a guess: 2 GiB per process)."""
    ttl_s: int = Field(default=86_400, ge=1)
    """Seconds for which Kubernetes keeps an attempt that has ended, with the pod and the log of its driver."""
    submission_retries: int = Field(default=3, ge=0)
    """Maximum number of times that the operator repeats a failed ``spark-submit``; the service starts failed drivers
    again."""
    submission_retry_s: int = Field(default=10, ge=1)
    """Seconds before the first repetition; the n-th waits n times as long."""
    pod_template: Path | None = None
    """YAML or JSON file with a pod template for driver and executors (``spec`` with ``nodeSelector``, ``tolerations``,
    ``volumes``, ...), or with one for each under ``driver`` and ``executor``. See docs/spark-manifest.md."""
    kubeconfig: Path | None = None
    """Path of a kubeconfig. Unset means the service account of the pod in which the service runs, otherwise
    ``KUBECONFIG`` or ``~/.kube/config``."""
    context: str | None = None
    """Context of the kubeconfig. Unset means the current context."""
    never_started_s: float = Field(default=60.0, ge=0)
    """Seconds without any state after which the Spark operator is reported as absent (a healthy one needs as long as
    `spark-submit`, 3 to 19 s).
    """


_HOST_NAME: Final = re.compile(r"(\*\.)?[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*")
"""A host name in lower case, also with ``*.`` before it; underscores are in the names of Compose's services."""


def _split_names(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_host_names(value: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.lower().rstrip(".") for name in value)
    for name in names:
        if name != "*" and _HOST_NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no host name; write ingest.example.com or *.example.com, without a port")
    return names


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(f"{network!r} is no address or network such as 10.0.0.7 or 10.0.0.0/8") from None
    return value


HostNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_names), AfterValidator(_check_host_names)]
"""Host names, ``*.`` before one means every name below it; comma-separated in the environment."""

Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_names), AfterValidator(_check_networks)]
"""IP addresses and networks in CIDR notation, comma-separated in the environment."""


class ApiSettings(Group):
    """The HTTP service."""

    host: str = "127.0.0.1"
    """Address to listen on. An address beyond loopback requires authentication, or ``allow_anonymous``."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 means any free port."""
    keys_file: Path | None = None
    """JSON file with the hashes of API keys and what each may do; ``ingest keys`` edits it. Without it, without
    ``database_keys`` and without ``INGEST_OIDC__ISSUER``, there is no authentication. See docs/operate/access.md."""
    database_keys: bool = False
    """True accepts the API keys in the database, which ``ingest keys`` has made there, in all copies of the service."""
    allow_anonymous: bool = False
    """True serves everybody who reaches the address without any authentication, where no API keys are set. Without it,
    the service then listens on loopback only. See docs/operate/network.md."""
    public_url: str | None = None
    """URL under which browsers reach the service, for example ``https://ingest.example.com``; its host is always
    allowed. Unset means that each request's own host is used. See docs/operate/network.md."""
    allowed_hosts: HostNames = ()
    """Comma-separated host names under which the service is reached; ``*.example.com`` means every name below. A
    request to another name is refused (421), which keeps web pages out that point their own name at this address
    ("DNS rebinding"). IP addresses, ``localhost``, this machine's name and the host of ``public_url`` are always
    allowed. ``*`` allows every name."""
    trusted_proxies: Networks = ()
    """Comma-separated addresses or networks of the proxies before the service, whose ``X-Forwarded-For`` and
    ``X-Forwarded-Proto`` are believed. Unset means that no such header is."""

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a URL that starts with http:// or https://")
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("must have no path, query or account, for example https://ingest.example.com")
        return value.rstrip("/").lower()


def _check_issuer(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL that starts with https://")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must have no account, query or fragment")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(
            "must start with https://, except on this machine: whoever can change the provider's answers on the way "
            "could sign tokens; INGEST_TLS__CA_FILE names an authority of your own"
        )
    return value


class OidcSettings(Group):
    """Log-in and tokens of an OpenID Connect provider. See docs/operate/oidc.md."""

    issuer: Annotated[str, AfterValidator(_check_issuer)] | None = None
    """Issuer of the tokens, exactly as the provider writes it into them (``https://id.example.com/realms/company``);
    its discovery document is below ``/.well-known/openid-configuration``. Unset means that there is no provider."""
    audience: str | None = None
    """Audience that a token must have to be accepted by the API. Unset means ``client_id``."""
    client_id: str | None = None
    """Id of the client that is registered at the provider for the log-in to the console. Unset means that people do not
    log in to the console by the provider."""
    client_secret: SecretStr | None = None
    """Secret of the client. Unset means that it is a public one: PKCE protects the log-in in any case."""
    scopes: str = Field(default="openid profile", pattern=r"^(\S+ )*openid( \S+)*$")
    """Scopes that the log-in requests of the provider, separated by blanks; one of them must be ``openid``. Add what
    the provider requires for the claim of the rules, for example ``groups``."""
    claim: str = Field(default="groups", min_length=1, max_length=256)
    """Claim of a token whose values the rules name: a text or a list of texts. Dots lead into objects, for example
    ``realm_access.roles``."""
    rules: tuple[dict[str, Any], ...] = ()
    """What holders of tokens may do, as a JSON list; the first rule that matches decides, and without one nothing is
    allowed: ``[{"value": "search-team", "scopes": ["search", "read"], "collections": ["docs-*"]}]``."""
    rules_file: Path | None = None
    """JSON file with the rules, instead of ``rules``; read when the service starts."""
    name_claim: str = Field(default="sub", min_length=1, max_length=256)
    """Claim with the name of a person or program, which must be unique and must not change: it owns the jobs that are
    submitted under it, as ``oidc:<name>``."""
    title: str = Field(default="single sign-on", min_length=1, max_length=64)
    """What the log-in page calls the provider: "Log in with ..."."""
    offer_logout: bool = True
    """True offers people who log out of the console to log out at the provider as well, where its discovery document
    has an ``end_session_endpoint``. False for providers that require an ID token there, such as Okta: the service keeps
    none."""

    @model_validator(mode="after")
    def _check(self) -> OidcSettings:
        others = self.model_fields_set - {"issuer"}
        if self.issuer is None and others:
            named = ", ".join(f"{PREFIX}OIDC__{name.upper()}" for name in sorted(others))
            raise ValueError(f"the issuer is missing: {PREFIX}OIDC__ISSUER must be set together with {named}")
        if self.issuer is not None and self.audience is None and self.client_id is None:
            raise ValueError(f"{PREFIX}OIDC__AUDIENCE or {PREFIX}OIDC__CLIENT_ID must be set as well")
        if self.rules and self.rules_file is not None:
            raise ValueError(f"{PREFIX}OIDC__RULES and {PREFIX}OIDC__RULES_FILE exclude each other")
        return self


class SessionSettings(Group):
    """Sessions of the console, after a log-in."""

    hours: float = Field(default=12.0, gt=0, le=720)
    """Hours after which a session ends in any case, and a new log-in is required."""
    idle_minutes: float = Field(default=60.0, gt=0)
    """Minutes without a request after which a session ends. A page that only follows a job makes none."""
    per_caller: int = Field(default=10, ge=1)
    """Maximum number of sessions of one caller; a further log-in ends the one that has been idle for longest."""


class LimitsSettings(Group):
    """What the HTTP service takes from its clients. See docs/operate/network.md."""

    connections: int | None = Field(default=None, ge=16)
    """Maximum number of connections. Unset means as many as the limit on open files allows (``ulimit -n``, less 144
    for the service itself), at most 20,000. Above it, connections that have not sent a whole request make way."""
    streams: int | None = Field(default=None, ge=1)
    """Maximum number of event streams; further ones are refused with 503. Unset means four fifths of the
    connections."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds that a client has to send the headers of a request."""
    body_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that a client has to send a body, of at most 1 MiB."""
    body_pause_s: float = Field(default=10.0, gt=0)
    """Seconds that a client may pause within a body."""
    send_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds that a client has to read what was sent to it, plus those for its size at 10 kB/s."""
    requests_per_second: float = Field(default=100.0, gt=0)
    """Maximum number of requests per second with one API key or session, on average over 20 s; more are refused with
    429. Requests without a key count for their address only."""
    address_requests_per_second: float = Field(default=200.0, gt=0)
    """Maximum number of requests per second from one address (IPv6: one /64 network), on average over 20 s; those
    with a credential that has been accepted count for their caller only."""
    queued_jobs_per_key: int | None = Field(default=None, ge=1)
    """Maximum number of jobs of one API key (or person) that wait for their start; further ones are refused with 429
    "quota_exceeded". Unset means no limit."""
    running_jobs_per_key: int | None = Field(default=None, ge=1)
    """Maximum number of jobs of one API key (or person) that are under way; further ones wait, while jobs of others
    start. Unset means no limit."""
    failed_logins_per_minute: float = Field(default=30.0, gt=0)
    """Maximum number of requests with an unknown key or password per minute from one address, and of wrong log-out
    tokens of a provider. Further ones from there are refused with 429 unread, but for credentials that have been
    accepted lately."""


class GatewaySettings(Group):
    """The embedding gateway, ``ingest gateway``: where it is, and how it serves."""

    url: ServerUrls = ()
    """Comma-separated URLs of the gateways, to which the service, drivers and workers send embedding requests;
    ``dns+http://name:port`` stands for every address of a name. Several gateways find each other by it. Unset means
    that the servers of ``INGEST_OLLAMA__URLS`` are used directly. See docs/gateway.md."""
    host: str = "127.0.0.1"
    """Address on which ``ingest gateway`` listens. The default is loopback, because there is no authentication."""
    allowed_hosts: HostNames = ()
    """Comma-separated host names under which clients reach ``ingest gateway``, as ``INGEST_API__ALLOWED_HOSTS``. IP
    addresses, this machine's name, the hosts of ``url``, and names that nobody can register (without a dot,
    ``*.svc``, ``*.local``, ``*.internal``) are always allowed."""
    port: int = Field(default=11430, ge=0, le=65535)
    """Port on which ``ingest gateway`` listens; 0 means any free port."""
    max_per_server: int = Field(default=32, ge=1)
    """Upper bound of the number of requests that a gateway has in flight at one server; below it, the number follows
    what the server achieves."""
    queue_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """Maximum size of all requests that wait in a gateway, in bytes. Above it, the clients with the most waiting
    requests are refused with 503."""


class WorkerSettings(Group):
    """Limits of a partition and of its objects."""

    object_max_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """Maximum size of an object in bytes; larger ones are recorded as failed ("object_too_large")."""
    decompressed_max_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """Maximum size of an object in bytes after decompression; larger ones fail ("decompressed_too_large")."""
    parse_timeout_s: float = Field(default=120.0, gt=0)
    """Maximum number of seconds to parse an object ("parse_timeout"), for each started 256 MiB of its size."""
    partition_bytes: int = Field(default=32 * 1024 * 1024, ge=1)
    """Maximum size of the objects of a partition, in bytes; a larger object has a partition of its own."""
    partition_objects: int = Field(default=200, ge=1)
    """Maximum number of objects in a partition."""
    partition_chunks: int = Field(default=2_000, ge=1)
    """Maximum number of chunks of a partition, as estimated; a larger object has a partition of its own."""


class OcrSettings(Group):
    """Text recognition (OCR) of scanned pages in PDFs, by the program ``tesseract`` on the workers."""

    enabled: bool = False
    """True has pages without characters recognised. Off by default, because a page takes seconds of a core; jobs read
    each object again once after a change."""
    languages: str = Field(default="eng", pattern=r"^[A-Za-z0-9_/]+(\+[A-Za-z0-9_/]+)*$")
    """Tesseract's codes of the languages in the pages, joined by ``+``, for example ``eng+deu``; each must be installed
    on every worker."""
    max_pages: int = Field(default=100, ge=1)
    """Maximum number of pages of an object that are recognised; further ones are a warning (`page_without_text`)."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds that parsing a PDF may take in addition to ``INGEST_WORKER__PARSE_TIMEOUT_S`` where recognition is on."""


class LeaseSettings(Group):
    """How long a dead driver blocks its collection."""

    ttl_s: float = Field(default=30.0, gt=0)
    """Seconds without a heartbeat after which a lease is taken over."""
    grace_s: float = Field(default=35.0, ge=0)
    """Seconds that the successor then waits before it writes. No write of a worker lasts longer, at most 30 s. Below
    8 s, writes of a dead attempt may outlive it, because every write has at least 5 s."""
    outage_retry_s: float = Field(default=5.0, gt=0)
    """Seconds of the first pause after an outage; doubles up to a minute."""


class DispatchSettings(Group):
    """How the service starts and monitors jobs."""

    enabled: bool = True
    """False makes this copy of the service serve the HTTP API only: it never dispatches jobs, whatever becomes of the
    other copies. At least one copy on the database must dispatch."""
    poll_s: float = Field(default=1.0, gt=0)
    """Seconds between two checks of queued and running jobs."""
    max_attempts: int = Field(default=3, ge=1)
    """Maximum number of drivers of a job before it fails ("driver_died")."""
    cancel_grace_s: float = Field(default=20.0, ge=0)
    """Seconds that the driver of a canceled job has to end by itself before its engine stops it."""
    pending_timeout_s: float = Field(default=900.0, gt=0)
    """Seconds that an attempt may wait for its engine to start it."""
    end_timeout_s: float = Field(default=900.0, gt=0)
    """Seconds after which the service ends a job whose driver has not confirmed its end, and fences the driver off: a
    canceled job from the request on, any other from the end of its ``max_runtime_s`` on."""


class RetentionSettings(Group):
    """How long the service keeps what it knows of jobs that have ended."""

    days: float = Field(default=30.0, ge=0)
    """Days for which jobs that have ended are kept: their row, plan, reports, failures and logs. 0 means for ever. What
    collections contain is not affected. See docs/operations.md."""


class AuditSettings(Group):
    """The audit log: who has changed what, and who was refused. See docs/operate/audit.md."""

    file: Path | None = None
    """File to which each entry is appended as a JSON line, besides the database; made with mode 0600, and opened again
    when it was renamed. Unset means that entries are lines of the log, of the logger ``audit``."""
    days: int = Field(default=365, ge=0)
    """Days for which entries are kept in the database; whole days in UTC are removed. 0 means for ever."""


class DatabaseSettings(Group):
    """Connections of each copy of the service to PostgreSQL, and the migration of the schema."""

    pool_size: int = Field(default=5, ge=1)
    """Number of connections that stay open."""
    max_overflow: int = Field(default=10, ge=0)
    """Number of further connections while all are in use. The server must allow the sum of both for every copy of the
    service (``max_connections``)."""
    pool_timeout_s: float = Field(default=5.0, gt=0)
    """Seconds that a request waits for a connection while all are in use; then it is refused with 503."""
    recycle_s: int = Field(default=1800, ge=0)
    """Seconds after which a connection is replaced when it is next used: proxies and firewalls forget old ones.
    0 means never."""
    migrate: bool = True
    """Whether the service migrates the schema when it starts. False makes it refuse to start until ``ingest migrate``
    has run, for example with an account that may change tables."""


class TracingSettings(Group):
    """Traces of requests and jobs. They require the extra ``tracing``; the standard variables ``OTEL_*`` apply, for
    example ``OTEL_EXPORTER_OTLP_HEADERS`` for a token.
    """

    endpoint: str | None = None
    """Base URL of a collector that speaks OTLP over HTTP, for example ``http://otel-collector:4318``; ``/v1/traces`` is
    appended. Drivers and workers of traced jobs use it too, unless they have a value of their own. Unset means that
    nothing is traced. See docs/operate/monitoring.md."""
    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Part of the requests that are traced, 0 to 1, each with the whole job that it submits. A request that comes with
    a ``traceparent`` is traced if its caller's trace is."""

    @field_validator("endpoint")
    @classmethod
    def _check(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a URL that starts with http:// or https://")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("must have no account, query or fragment; OTEL_EXPORTER_OTLP_HEADERS takes a token")
        return value.rstrip("/")


class Settings(BaseSettings):
    """All settings. Arguments of the constructor override the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    tls: TlsSettings = TlsSettings()
    s3: S3Settings = S3Settings()
    ollama: OllamaSettings = OllamaSettings()
    embed: EmbedSettings = EmbedSettings()
    qdrant: QdrantSettings = QdrantSettings()
    weaviate: WeaviateSettings = WeaviateSettings()
    ray: RaySettings = RaySettings()
    spark: SparkSettings = SparkSettings()
    api: ApiSettings = ApiSettings()
    limits: LimitsSettings = LimitsSettings()
    oidc: OidcSettings = OidcSettings()
    session: SessionSettings = SessionSettings()
    gateway: GatewaySettings = GatewaySettings()
    worker: WorkerSettings = WorkerSettings()
    ocr: OcrSettings = OcrSettings()
    lease: LeaseSettings = LeaseSettings()
    dispatch: DispatchSettings = DispatchSettings()
    retention: RetentionSettings = RetentionSettings()
    audit: AuditSettings = AuditSettings()
    tracing: TracingSettings = TracingSettings()
    database: DatabaseSettings = DatabaseSettings()
    state_url: str | None = None
    """URL of the state store: ``s3://bucket/prefix``, or ``file:///dir`` on one machine. Required to run jobs."""
    database_url: str | None = None
    """URL of the database of jobs, ``postgresql://user:password@host:5432/database?sslmode=require``. Unset means
    SQLite in ``DATA_DIR``."""
    data_dir: Path = Path(".ingest")
    """Directory for files of the service and of the embedded stack."""
    log_level: str = "INFO"
    """Minimum level of log lines: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``."""
    log_format: Literal["text", "json"] = "text"
    """Form of log lines: ``text``, or ``json`` with one JSON object per line. See docs/operate/monitoring.md."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the constructor's arguments and the variables, as sources."""
        given = _variables.get()
        if given is not None:
            assert isinstance(env_settings, EnvSettingsSource)
            env_settings.env_vars = given
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @property
    def takes_keys(self) -> bool:
        """True when callers may have API keys."""
        return self.api.keys_file is not None or self.api.database_keys

    @property
    def is_open(self) -> bool:
        """True when the service serves everybody, because no way to authenticate is configured."""
        return not self.takes_keys and self.oidc.issuer is None

    @property
    def embed_in_flight(self) -> int:
        """The cluster-wide limit on embedding requests in flight."""
        return self.embed.in_flight or 4 * count_servers(self.ollama.urls)

    @property
    def sqlalchemy_url(self) -> str:
        """The effective database URL, with an async driver."""
        return self.database_url or f"sqlite+aiosqlite:///{(self.data_dir / 'jobs.db').absolute()}"

    def endpoints(self) -> dict[str, Any]:
        """Return the non-secret settings that driver and workers must share; frozen into every job spec. Pure.

        Passwords inside of URLs are left out: driver and workers have them in their own settings, as other secrets.
        """
        # Workers of an earlier release of this minor version know no gateway, but any Ollama client can use one.
        is_plain = self.gateway.url and not any(url.startswith("dns+") for url in self.gateway.url)
        gateways = [hide_credentials(url) for url in self.gateway.url]
        servers = [hide_credentials(url) for url in self.ollama.urls]
        return {
            "s3": {"endpoint_url": self.s3.server_url, "region": self.s3.region},
            "ollama": {"urls": gateways if is_plain else servers},
            **({"gateway": {"url": gateways}} if gateways else {}),
            "qdrant": {"url": _hide(self.qdrant.url), **_creation(self.qdrant)},
            "weaviate": {
                "url": _hide(self.weaviate.url),
                "grpc_url": _hide(self.weaviate.grpc_url),
                **_creation(self.weaviate),
            },
        }

    def with_endpoints(self, endpoints: dict[str, Any]) -> Settings:
        """Return these settings, with the secrets of this process, and the endpoints of a spec. Pure.

        Names that only a later release of this minor version knows are ignored. Endpoints without a gateway mean that
        the job uses none, whatever this process has.
        """
        groups: dict[str, Group] = {"gateway": self.gateway.model_copy(update={"url": ()})}
        for name, values in endpoints.items():
            if name not in type(self).model_fields:
                continue
            group: Group = getattr(self, name)
            known = {
                key: self._with_own_credentials(value)
                for key, value in values.items()
                if key in type(group).model_fields
            }
            groups[name] = type(group).model_validate({**dict(group), **known})
        return self.model_copy(update=groups)

    def _with_own_credentials(self, value: Any) -> Any:
        """Return a value of a spec, its URLs with the passwords that this process has for the same servers. Pure."""
        own = (
            *(self.s3.endpoint_url, self.qdrant.url, self.weaviate.url, self.weaviate.grpc_url),
            *(*self.ollama.urls, *self.gateway.url),
        )
        if isinstance(value, list | tuple):
            return [restore_credentials(one, own) if isinstance(one, str) else one for one in value]
        return restore_credentials(value, own) if isinstance(value, str) and "://" in value else value


def _hide(url: str | None) -> str | None:
    return None if url is None else hide_credentials(url)


def _creation(store: QdrantSettings | WeaviateSettings) -> dict[str, Any]:
    """Return the settings for new collections that are set: the driver, which creates them, may run elsewhere. Pure."""
    return {name: value for name in CREATION_FIELDS if (value := getattr(store, name)) is not None}


class SettingsError(Exception):
    """A setting is invalid; the message names the variable and the reason."""


_PLAIN_VARIABLES = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH"),
    *("SYSTEMROOT", "PYTHONHOME", "VIRTUAL_ENV", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "RAYON_NUM_THREADS"),
    "TESSDATA_PREFIX",
)
"""Variables that a program needs to run, and that have no secrets."""


def plain_environment() -> dict[str, str]:
    """Return the variables that a process without access to any system needs."""
    return {name: value for name in _PLAIN_VARIABLES if (value := os.environ.get(name)) is not None}


def has_variable(names: Collection[str]) -> bool:
    """Return whether the environment sets one of some variables, which belong to other packages."""
    return any(os.environ.get(name) for name in names)


def load_settings(*, ignored: Collection[str] = (), **overrides: Any) -> Settings:
    """Read the settings from the environment and ``INGEST_SECRETS_DIR``.

    Args:
        ignored: Variables of the environment that are treated as unset.
        overrides: Values that override both, by the names of ``Settings``.

    Raises:
        SettingsError: names each invalid or misspelt variable, never its value; or the directory of secrets is
            missing.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ignored}
    variables = {**_read_secrets(os.environ.get("INGEST_SECRETS_DIR")), **environment}
    _check_names(variables)
    # Compose files and charts write an empty value for what is not set.
    variables = {name: value for name, value in variables.items() if value or name.upper() not in _list_optional()}
    # pydantic-settings' source for nested names reads all files of the directory, also binary ones of other programs.
    token = _variables.set({name.lower(): value for name, value in variables.items()})
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(describe_faults(error, _name_variable)) from None
    except UnreadableVariable as error:  # names the group, for each of its variables
        group = _FIELD.search(str(error))
        name = PREFIX + (group[1].upper() if group else "*")
        text = f"{name}: the value is no JSON. Set each setting of the group by itself, as {name}__NAME."
        raise SettingsError(text) from None
    finally:
        _variables.reset(token)


@dataclass(frozen=True, slots=True)
class Variables:
    """The ``INGEST_*`` variables of this process, by where they come from."""

    environment: tuple[str, ...]
    """Those of the environment."""
    files: tuple[str, ...]
    """Those of ``INGEST_SECRETS_DIR`` that the environment does not override."""
    unknown: tuple[str, ...]
    """Those among both that are no settings and are ignored."""


def list_variables() -> Variables:
    """Return the names of this process's variables, never their values. Raises SettingsError as ``load_settings``."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    files = _read_secrets(os.environ.get("INGEST_SECRETS_DIR"))
    given = {**files, **environment}
    unknown = [name for name in given if not _is_known(name) and not _is_service_link(name, given[name])]
    own = (name for name in environment if not _is_service_link(name, environment[name]))
    return Variables(tuple(sorted(own)), tuple(sorted(files.keys() - environment.keys())), tuple(sorted(unknown)))


def runs_in_kubernetes() -> bool:
    """Return whether this process runs in a pod, by the variable that Kubernetes sets in each."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def _read_secrets(directory: str | None) -> dict[str, str]:
    """Return the variables in the files of a directory. Raises SettingsError when it cannot be read."""
    if not directory:
        return {}
    try:
        paths = sorted(path for path in Path(directory).iterdir() if path.name.startswith(PREFIX))
    except OSError as error:
        raise SettingsError(f"INGEST_SECRETS_DIR: the directory cannot be read: {error.strerror}") from None
    try:
        return {path.name: path.read_text(encoding="utf-8").strip() for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a file is not UTF-8"
        raise SettingsError(f"INGEST_SECRETS_DIR: a file cannot be read: {reason}") from None


def _check_names(variables: Mapping[str, str]) -> None:
    """Return when no variable is a typing error for a setting; log other unknown ones once.

    Raises:
        SettingsError: names each such variable and the setting that was probably meant.
    """
    known = {*_list_names(), *OTHER_VARIABLES}
    faults = []
    for name in sorted(variables):
        if not name.startswith(PREFIX) or _is_known(name) or _is_service_link(name, variables[name]):
            continue
        # Without the prefix: what all names share says nothing.
        short = [other.removeprefix(PREFIX) for other in sorted(known)]
        near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), short, n=1, cutoff=_NEAR)
        if near:
            faults.append(f"{name}: no such setting; did you mean {PREFIX}{near[0]}?")
        else:
            _warn_of(name)
    if faults:
        raise SettingsError(" ".join(faults))


def _is_known(name: str) -> bool:
    return name.upper() in {*_list_names(), *OTHER_VARIABLES}


def _is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes has set a variable. Pure."""
    if _SERVICE_LINK.search(name) is None:
        return False
    return not name.endswith("_PORT") or "_SERVICE_PORT" in name or "://" in value or "_PORT_" in name


@functools.cache
def _warn_of(name: str) -> None:
    log.warning("%s is not a setting and is ignored", name)


@functools.cache
def _list_names() -> tuple[str, ...]:
    """Return the variables of all settings, those of groups as JSON included."""
    return tuple(f"{prefix}{name}".upper() for prefix, fields in _list_fields() for name in fields)


@functools.cache
def _list_optional() -> frozenset[str]:
    """Return the variables of settings that may be unset, in upper case.

    Without the file of API keys and the issuer of tokens: what was lost on the way must not open the API.
    """
    return frozenset(
        f"{prefix}{name}".upper()
        for prefix, fields in _list_fields()
        for name, field in fields.items()
        if field.default is None and name not in ("keys_file", "issuer")
    )


def _list_fields() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """Yield the fields of the settings without a group and of each group, with the prefix of their variables."""
    yield PREFIX, Settings.model_fields
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            yield f"{PREFIX}{name}__", field.annotation.model_fields


def find_aws_ca_bundle() -> Path | None:
    """Return the file of authorities that AWS's own variable names, if it can be read; botocore reads it itself."""
    path = Path(os.environ.get("AWS_CA_BUNDLE", ""))
    return path if path.is_file() and os.access(path, os.R_OK) else None


def _name_variable(location: Sequence[str]) -> str:
    return PREFIX + "__".join(location).upper()
