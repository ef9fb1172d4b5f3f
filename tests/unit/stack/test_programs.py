"""Which programs of a machine the embedded stack runs, and why it does not run others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_devstack.stack.programs import Program, find_models, find_programs, has_model
from ingestion_devstack.stack.service import StackError
from ingestion_engine.runtime.settings import OTHER_VARIABLES

SAID = {
    "minio": "minio version RELEASE.2025-09-07T16-13-09Z (commit-id=07c3a429bfed433e49018cb0f78a52145d4bedeb)",
    "ollama": "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.33.0",
    "qdrant": "qdrant 1.19.0",
    "weaviate": "",
}
MODEL = "all-minilm"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a machine with no program on its PATH and no model."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return {"PATH": str(tmp_path / "bin"), "OLLAMA_MODELS": str(tmp_path / "models")}


def install(machine: dict[str, str], name: str, said: str | None = None) -> Path:
    """Put a program on the PATH that says its version, and refuses everything else."""
    path = Path(machine["PATH"]) / name
    text = SAID[name] if said is None else said
    path.write_text(f'#!/bin/sh\n[ "$*" = --version ] || exit 2\ncat <<"EOF"\n{text}\nEOF\n')
    path.chmod(0o755)
    return path


def pull(models: Path, manifest: str = "registry.ollama.ai/library/all-minilm/latest") -> None:
    path = models / "manifests" / manifest
    path.parent.mkdir(parents=True)
    path.write_text("{}")


def test_nothing_is_found_on_an_empty_machine(machine: dict[str, str]) -> None:
    found = find_programs(machine, MODEL)
    assert (found.used, found.passed_over) == ({}, {})


def test_programs_on_the_path_are_used(machine: dict[str, str]) -> None:
    paths = {name: install(machine, name) for name in ("minio", "ollama", "qdrant")}
    pull(Path(machine["OLLAMA_MODELS"]))
    found = find_programs(machine, MODEL)
    assert found.used == {
        "minio": Program(paths["minio"], "2025-09-07T16-13-09Z", is_named=False),
        "ollama": Program(paths["ollama"], "0.33.0", is_named=False),
        "qdrant": Program(paths["qdrant"], "1.19.0", is_named=False),
    }
    assert str(found.used["qdrant"]) == f"real server, version 1.19.0: {paths['qdrant']}"


@pytest.mark.parametrize("word", ["off", "OFF", " off "])
def test_a_program_is_switched_off(machine: dict[str, str], word: str) -> None:
    install(machine, "qdrant")
    found = find_programs({**machine, "INGEST_STACK__QDRANT": word}, MODEL)
    assert (found.used, found.passed_over) == ({}, {})


@pytest.mark.parametrize("how", ["path", "name"])
def test_a_program_is_named(machine: dict[str, str], tmp_path: Path, how: str) -> None:
    install(machine, "qdrant", "qdrant 1.10.0")
    other = install(machine, "qdrant").rename(tmp_path / "bin" / "qdrant-1.19")
    named = str(other) if how == "path" else other.name
    found = find_programs({**machine, "INGEST_STACK__QDRANT": named}, MODEL)
    assert found.used == {"qdrant": Program(other, "1.19.0", is_named=True)}


@pytest.mark.parametrize(
    ("name", "said", "reason"),
    [
        ("qdrant", "qdrant 1.8.4", "version 1.8.4 is older than 1.9.0 and lacks the request whether"),
        ("minio", "minio version RELEASE.2025-07-23T15-54-02Z (x)", "is older than 2025-09-07 and lacks conditional"),
        ("ollama", "ollama version is 0.1.44", "version 0.1.44 is older than 0.3.0 and lacks the request"),
        ("qdrant", "Midnight Commander 4.8", "it does not say that it is qdrant"),
    ],
)
def test_a_program_that_cannot_be_used(machine: dict[str, str], name: str, said: str, reason: str) -> None:
    """On PATH it is passed over with a reason; one that is named is an error."""
    path = install(machine, name, said)
    found = find_programs(machine, MODEL)
    assert found.used == {}
    assert found.passed_over[name].startswith(f"not {path}: ")
    assert reason in found.passed_over[name]

    variable = f"INGEST_STACK__{name.upper()}"
    with pytest.raises(StackError, match=variable) as caught:
        find_programs({**machine, variable: str(path)}, MODEL)
    assert reason in str(caught.value)


def test_a_build_without_a_version_is_used(machine: dict[str, str]) -> None:
    install(machine, "minio", "minio version DEVELOPMENT.GOGET (commit-id=DEVELOPMENT.GOGET)")
    assert find_programs(machine, MODEL).used["minio"].version == "DEVELOPMENT.GOGET"


def test_a_named_program_that_does_not_exist(machine: dict[str, str]) -> None:
    with pytest.raises(StackError, match=r"INGEST_STACK__MINIO: 'minio-2025' is not a program\. Use its path"):
        find_programs({**machine, "INGEST_STACK__MINIO": "minio-2025"}, MODEL)


def test_a_program_that_cannot_be_started(machine: dict[str, str]) -> None:
    path = Path(machine["PATH"]) / "qdrant"
    path.write_bytes(b"\x7fELF of another machine")
    path.chmod(0o755)
    assert "does not say that it is qdrant" in find_programs(machine, MODEL).passed_over["qdrant"]


def test_an_ollama_without_the_model_is_used_only_by_name(machine: dict[str, str]) -> None:
    """The demo and the first job work without a download; the reason says how to pull the model."""
    install(machine, "ollama")
    assert "pull it with `ollama pull all-minilm`" in find_programs(machine, MODEL).passed_over["ollama"]
    assert find_programs({**machine, "INGEST_STACK__OLLAMA": "ollama"}, MODEL).used["ollama"].is_named


def test_weaviate_is_used_only_by_name(machine: dict[str, str]) -> None:
    """It cannot be bound to loopback alone."""
    path = install(machine, "weaviate")
    assert "set INGEST_STACK__WEAVIATE to use it" in find_programs(machine, MODEL).passed_over["weaviate"]
    found = find_programs({**machine, "INGEST_STACK__WEAVIATE": str(path)}, MODEL)
    assert found.used == {"weaviate": Program(path, "", is_named=True)}
    assert str(found.used["weaviate"]) == f"real server: {path}"


@pytest.mark.parametrize(
    ("model", "manifest"),
    [
        ("all-minilm", "registry.ollama.ai/library/all-minilm/latest"),
        ("all-minilm:l12", "registry.ollama.ai/library/all-minilm/l12"),
        ("team/embedder", "registry.ollama.ai/team/embedder/latest"),
        ("hf.co/team/embedder:q8", "hf.co/team/embedder/q8"),
    ],
)
def test_names_of_models(tmp_path: Path, model: str, manifest: str) -> None:
    """The directories in which Ollama stores a model."""
    assert not has_model(tmp_path, model)
    pull(tmp_path, manifest)
    assert has_model(tmp_path, model)
    assert not has_model(tmp_path, "other")


def test_where_models_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the user where they have the model, so that nothing is downloaded twice."""
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / "data" / "ollama-models"
    assert find_models({"OLLAMA_MODELS": "/models"}, own, MODEL) == Path("/models")
    assert find_models({}, own, MODEL) == own
    pull(tmp_path / ".ollama" / "models")
    assert find_models({}, own, MODEL) == tmp_path / ".ollama" / "models"


def test_the_variables_are_known() -> None:
    """No warning about an unknown setting, and no guess that another one was meant."""
    assert {f"INGEST_STACK__{name.upper()}" for name in SAID} <= set(OTHER_VARIABLES)
