"""Releases of any name and beside each other, every setting and every value: nothing is lost, nothing collides."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import certifi
import helm_python
import pytest
from pydantic import BaseModel

from ingestion_engine.runtime.settings import OTHER_VARIABLES, PREFIX, Settings, load_settings
from support.charts.manifests import find_pods, name_of, of_kind, selects, strings_of
from support.charts.rendering import CHART, EXAMPLES, Object, load_chart, merge, read_values, render, render_files
from support.charts.rules import find_faults
from support.charts.schemas import VERSIONS, find_problems

MINIMUM = {
    "existingSecret": "secrets",
    "auth": {"existingSecret": "keys"},
    "config": {
        "state_url": "s3://state/prefix",
        "ollama": {"urls": ["http://ollama.models.svc:11434"]},
        "qdrant": {"url": "http://qdrant.vectors.svc:6333"},
        "weaviate": {"url": "http://weaviate.vectors.svc:8080"},
        "ray": {"address": "http://ray-head-svc.ray.svc:8265"},
    },
    "networkPolicy": {"gateway": {"from": [{"namespaceSelector": {"matchLabels": {"team": "ray"}}}]}},
}
EVERYTHING = read_values(CHART / "examples" / "everything.yaml")

LONGEST_RELEASE = "r" * 53
"""Helm refuses longer names."""


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("version", VERSIONS)
def test_the_minimum_is_enough(version: str) -> None:
    objects = render(MINIMUM)

    assert find_problems(objects, version) == []
    assert find_faults(objects) == []


@pytest.mark.parametrize("values", [MINIMUM, EVERYTHING], ids=["minimum", "everything"])
@pytest.mark.parametrize("release", ["e", "true", LONGEST_RELEASE, "ingestion-engine"])
def test_names_of_any_release(values: dict[str, Any], release: str) -> None:
    objects = render(values, release=release)

    assert find_faults(objects) == []
    assert find_problems(objects, VERSIONS[-1]) == []


@pytest.mark.parametrize("values", [MINIMUM, EVERYTHING], ids=["minimum", "everything"])
def test_two_releases_in_one_namespace(values: dict[str, Any]) -> None:
    """Neither their objects nor what these select overlap."""
    one, two = render(values, release="one"), render(values, release="two")

    assert {identity(each) for each in one} & {identity(each) for each in two} == set()
    for owner, others in ((one, two), (two, one)):
        for each in owner:
            for selector in selectors_of(each):
                assert [pod for pod in find_pods(others) if selects(selector, pod.labels)] == [], name_of(each)


def test_releases_whose_long_names_begin_alike() -> None:
    """A name that is cut must not become that of another release."""
    one, two = (render(MINIMUM, release=LONGEST_RELEASE[:-1] + end) for end in "ab")

    assert {identity(each) for each in one} & {identity(each) for each in two} == set()


def test_releases_of_one_name_that_share_a_namespace_of_jobs() -> None:
    """Two teams call their releases alike, and run their Spark jobs in the same namespace."""
    one, two = (render(EVERYTHING, namespace=namespace) for namespace in ("search", "research"))

    assert {identity(each) for each in one} & {identity(each) for each in two} == set()


@pytest.mark.parametrize("override", ["true", "null", "e"])
def test_names_that_yaml_reads_as_something_else(override: str) -> None:
    objects = render(merge(EVERYTHING, {"fullnameOverride": override, "nameOverride": override}))

    assert find_faults(objects) == []
    assert find_problems(objects, VERSIONS[-1]) == []


def identity(each: Object) -> tuple[str, str, str]:
    return each["kind"], each["metadata"]["namespace"], each["metadata"]["name"]


def selectors_of(each: Object) -> Iterator[Mapping[str, Any]]:
    """The selectors of an object by which it finds pods."""
    spec = each.get("spec") or {}
    if each["kind"] == "Service":
        yield {"matchLabels": spec["selector"]}
    elif each["kind"] in {"Deployment", "PodDisruptionBudget", "PodMonitor"}:
        yield spec["selector"]
    elif each["kind"] == "NetworkPolicy":
        yield spec["podSelector"]


# Settings


def list_variables() -> set[str]:
    """The names of all settings."""
    names = set(OTHER_VARIABLES)
    for name, info in Settings.model_fields.items():
        group = info.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            names |= {f"{PREFIX}{name}__{field}".upper() for field in group.model_fields}
        else:
            names.add(f"{PREFIX}{name}".upper())
    return names


def environment_of(pod: Any, objects: list[Object]) -> dict[str, str]:
    """The variables that the first container of a pod starts with."""
    part = pod.spec["containers"][0]
    found = {}
    for source in part.get("envFrom", ()):
        (config,) = [
            each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"] == source["configMapRef"]["name"]
        ]
        found |= config["data"]
    return found | {entry["name"]: entry["value"] for entry in part.get("env", ()) if "value" in entry}


def give_environment(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], secrets: Path) -> None:
    """Start with nothing but these variables, and the URL of a database as the chart mounts it."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (secrets / "INGEST_DATABASE_URL").write_text("postgresql://service:secret@db.svc/ingest")
    monkeypatch.setenv("INGEST_SECRETS_DIR", str(secrets))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_pods_start_with_valid_settings(path: Path, tmp_path: Path) -> None:
    """The program itself reads what the chart sets, and knows every name."""
    objects = render(read_values(path))
    known = list_variables()
    pods = [pod for pod in find_pods(objects) if pod.owner["kind"] in {"Deployment", "Job"}]
    assert pods

    for pod in pods:
        variables = environment_of(pod, objects)
        assert {name for name in variables if name.startswith(PREFIX)} <= known, str(pod)
        if "INGEST_TLS__CA_FILE" in variables:
            shutil.copy(certifi.where(), tmp_path / "ca.crt")
            variables["INGEST_TLS__CA_FILE"] = str(tmp_path / "ca.crt")
        with pytest.MonkeyPatch.context() as patch:
            give_environment(patch, variables, tmp_path)
            settings = load_settings()
        if pod.lasts and pod.labels["app.kubernetes.io/component"] != "gateway":
            assert settings.dispatch.enabled is (pod.labels["app.kubernetes.io/component"] == "dispatcher")
            assert settings.database_url is not None


def test_every_setting_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `config` naming every setting that it may, the program reads the same values from the ConfigMap."""
    allowed = load_chart().schema["properties"]["config"]["properties"]
    config: dict[str, Any] = {}
    for name, schema in allowed.items():
        model = Settings.model_fields[name].annotation
        if "properties" in schema:
            assert isinstance(model, type)
            assert issubclass(model, BaseModel)
            config[name] = {
                field: choose(name, field, inner)
                for field, inner in schema["properties"].items()
                if f"{name}.{field}" not in EXCLUDED
            }
        else:
            config[name] = choose("", name, schema)
    values = merge(MINIMUM, {"gateway": {"enabled": False}, "config": config})
    objects = render(values)
    (data,) = [each["data"] for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"].endswith("-config")]
    give_environment(monkeypatch, data, tmp_path)
    settings = load_settings()

    for name, value in config.items():
        fields = value.items() if isinstance(value, dict) else [("", value)]
        for field, given in fields:
            variable = f"{PREFIX}{name}__{field}".upper() if field else f"{PREFIX}{name}".upper()
            assert variable in data, variable
            read = getattr(getattr(settings, name), field) if field else getattr(settings, name)
            shown = list(read) if isinstance(read, tuple) else str(read) if isinstance(read, Path) else read
            if variable == "INGEST_API__ALLOWED_HOSTS":  # after the names of the Service
                shown = shown[-len(given) :]
            assert shown == given, variable


SAMPLES: dict[str, Any] = {
    "state_url": "s3://state/prefix",
    "ollama.urls": ["http://one.example.com:11434#4", "https://two.example.com"],
    "gateway.url": ["http://gateway.example.com:11430"],
    "ray.address": "http://ray.example.com:8265",
    "weaviate.grpc_url": "http://grpc.example.com:50051",
    "s3.endpoint_url": "https://s3.example.com",
    "tracing.endpoint": "http://otel.example.com:4318",
    "api.allowed_hosts": ["one.example.com", "*.two.example.com"],
    "api.public_url": "https://ingest.example.com",
    "api.trusted_proxies": ["10.0.0.0/8"],
    "oidc.issuer": "https://id.example.com/realms/company",
    "oidc.scopes": "openid groups",
    "oidc.rules": [{"value": "team", "scopes": ["read"]}],
}
"""Values of settings whose default is unset, or whose form is more than a text."""


EXCLUDED = {"oidc.rules_file"}
"""Excluded by another setting that is given: the rules themselves."""


def choose(group: str, field: str, schema: Mapping[str, Any]) -> Any:
    """A value of a setting: a sample, its default, or the simplest that its schema allows."""
    place = f"{group}.{field}" if group else field
    if place in SAMPLES:
        return SAMPLES[place]
    owner = getattr(Settings.model_construct(), group) if group else Settings.model_construct()
    default = getattr(owner, field)
    if default is not None:
        return list(default) if isinstance(default, tuple) else default
    types = schema["type"]
    if "enum" in schema:
        return next(value for value in schema["enum"] if value not in {None, "none"})
    if "boolean" in types:
        return True
    return max(schema.get("minimum", 1), 1) if {"integer", "number"} & set(types) else "text"


# Values


def list_leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all values that are no maps, or empty ones."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from list_leaves(value, (*path, key))
        else:
            yield (*path, key)


def make_changes(value: Any) -> list[Any]:
    """Other values for the same place; one of them is of the right form."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, dict):
        return [{"changed": "yes"}, {"spec": {"nodeSelector": {"changed": "yes"}}}]
    if isinstance(value, list):
        return [[{"name": "changed"}], [{"podSelector": {}}], ["changed"], [9999], [{"host": "changed"}], [{"a": "b"}]]
    if value is None:
        return [3, "50%"]
    digest = f"sha256:{'1' * 64}"
    return ["changed", "/changed", "7s", "Always", "NodePort", "job", digest, "7Mi", "9.9.9"]


def put(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Values with one value at a place."""
    for key in reversed(path):
        value = {key: value}
    assert isinstance(value, dict)
    return value


VALUES = read_values(CHART / "values.yaml")
LEAVES = [path for path in list_leaves(VALUES) if path[0] != "config"]


CONSENTS = {"auth.allowEverybody"}
"""Values that only let others pass; the refusals have cases."""


PARTNERS = {"spark.jobServiceAccount.create": {"spark": {"jobServiceAccount": {"name": "own"}}}}
"""What some values need beside them."""


@pytest.fixture(scope="module")
def bases() -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Value files with all defaults, the fullest first, and what they render."""
    paths = sorted(EXAMPLES, key=lambda path: (path.stem != "everything", path.stem))
    given = [*map(read_values, paths), MINIMUM]
    return [(merge(VALUES, values), render_files(values)) for values in given]


@pytest.mark.parametrize("section", sorted({path[0] for path in LEAVES}))
def test_every_value_does_something(section: str, bases: list[tuple[dict[str, Any], dict[str, str]]]) -> None:
    """Another value at any place of values.yaml changes an object, with one of the value files at least."""
    paths = [path for path in LEAVES if path[0] == section and ".".join(path) not in CONSENTS]

    assert [".".join(path) for path in paths if not any(changes(path, *base) for base in bases)] == []


def changes(path: tuple[str, ...], values: dict[str, Any], rendered: dict[str, str]) -> bool:
    """Whether another value at a place renders other objects. False where all are refused."""
    present: Any = values
    for key in path:
        present = present[key] if isinstance(present, dict) else None
    for other in make_changes(present):
        with contextlib.suppress(helm_python.HelmError):
            partner = PARTNERS.get(".".join(path), {})
            if render_files(merge(values, put(path, other), partner)) != rendered:
                return True
    return False


def test_templates_name_values_that_exist() -> None:
    """A misspelled name in a template is an empty value to Helm."""
    for path in sorted((CHART / "templates").iterdir()):
        for name in re.findall(r"\.Values\.([A-Za-z0-9_.]+)", path.read_text(encoding="utf-8")):
            value: Any = VALUES
            for key in name.rstrip(".").split("."):
                assert isinstance(value, dict), f"{path.name}: .Values.{name}"
                if not value or value is VALUES.get("config"):
                    break
                assert key in value, f"{path.name}: .Values.{name}"
                value = value[key]


def test_no_secret_is_rendered() -> None:
    """Nothing in the objects but names of Secrets."""
    texts = list(strings_of(render(EVERYTHING)))

    assert [text for text in texts if re.search(r"(password|secret|token)[=:]\S", text, re.IGNORECASE)] == []
