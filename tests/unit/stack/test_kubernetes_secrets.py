"""Secrets of the Kubernetes stand-in: a driver never starts with a part of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion_devstack.kubernetes import config

FIRST = {"KEY": "old key", "TOKEN": "old token"}
SECOND = {"KEY": "new key", "TOKEN": "new token"}


@pytest.mark.parametrize("before", [None, FIRST])
def test_a_reader_never_finds_a_part_of_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, str] | None
) -> None:
    if before is not None:
        config.write_secret(tmp_path, "login", before)
    found: list[dict[str, str] | None] = []
    write = config.write_private

    def write_watched(path: Path, content: bytes) -> None:
        found.append(config.read_secret(tmp_path, "login"))
        write(path, content)
        found.append(config.read_secret(tmp_path, "login"))

    monkeypatch.setattr(config, "write_private", write_watched)
    config.write_secret(tmp_path, "login", SECOND)
    assert found == [before] * 4
    assert config.read_secret(tmp_path, "login") == SECOND


def test_directories_of_a_writing_under_way_are_no_secrets(tmp_path: Path) -> None:
    config.write_secret(tmp_path, "login", FIRST)
    assert config.read_secret(tmp_path, ".login.1.new") is None
    assert config.read_secret(tmp_path, "other") is None
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["login"]
