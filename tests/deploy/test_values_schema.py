"""The schema of the chart's values is the one that the settings and values.yaml make."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ingestion_engine.runtime.settings import Settings
from support.charts.rendering import CHART, EXAMPLES, read_values

_SCRIPT = Path(__file__).parents[2] / "scripts" / "values_schema.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(_SCRIPT))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return made


def test_the_schema_is_up_to_date(script: dict[str, Any]) -> None:
    """`make docs` writes it; a new setting or value is in it at once."""
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == script["render"]()


def test_every_setting_is_a_name_or_belongs_elsewhere(schema: dict[str, Any], script: dict[str, Any]) -> None:
    """A setting under `config`, a secret, or one that the chart sets: nothing is in two of these, or in none."""
    config = schema["properties"]["config"]["properties"]
    named, all_names = set(), set()
    for name, info in Settings.model_fields.items():
        fields = getattr(info.annotation, "model_fields", None)
        all_names |= {name} if fields is None else {f"{name}.{field}" for field in fields}
        if name in config:
            named |= {f"{name}.{field}" for field in config[name]["properties"]} if fields else {name}
    secrets = {"s3.access_key_id", "s3.secret_access_key", "qdrant.api_key", "weaviate.api_key", "ray.auth_token"}
    secrets |= {"oidc.client_secret"}
    assert script["SET_BY_THE_CHART"] <= all_names, "a setting has another name now"
    assert named == all_names - secrets - script["SET_BY_THE_CHART"]


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"config": {"database_url": "postgresql://user:password@host/jobs"}}, "config"),
        ({"config": {"s3": {"secret_access_key": "x"}}}, "config.s3"),
        ({"config": {"embed": {"in_flght": 3}}}, "config.embed"),
        ({"config": {"embed": {"in_flight": 0}}}, "config.embed.in_flight"),
        ({"config": {"qdrant": {"quantization": "best"}}}, "config.qdrant.quantization"),
        ({"config": {"log_level": 3}}, "config.log_level"),
        ({"api": {"replica": 3}}, "api"),
        ({"migrations": {"mode": "later"}}, "migrations.mode"),
        ({"image": {"digest": "latest"}}, "image.digest"),
        ({"networkPolicy": {"api": {"from": [{"namespace": "web"}]}}}, "networkPolicy.api.from.0"),
        ({"gateway": {"port": 0}}, "gateway.port"),
        ({"spark": {"labels": {"cost-center": 4711}}}, "spark.labels.cost-center"),
    ],
)
def test_what_nobody_reads_is_refused(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
    """A typing error, a wrong type, a secret in clear text: the error names the place."""
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(values))
    assert [".".join(map(str, error.absolute_path)) for error in errors] == [path]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_accepted(schema: dict[str, Any], path: Path) -> None:
    assert list(jsonschema.Draft7Validator(schema).iter_errors(read_values(path))) == []


def test_null_unsets_a_setting(schema: dict[str, Any]) -> None:
    values = {"config": {"embed": {"in_flight": None}, "ollama": {"urls": None}, "qdrant": {"quantization": None}}}
    assert list(jsonschema.Draft7Validator(schema).iter_errors(values)) == []
