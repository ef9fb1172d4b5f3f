"""The tests' own PostgreSQL: where its programs are found, and that the account that runs them can read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import postgres
from support.postgres import choose_account, find_binaries, make_readable


def install(site: Path) -> Path:
    """Install a package like ``pgserver`` into a directory; return its folder of programs."""
    binaries = site / "pgserver" / "pginstall" / "bin"
    binaries.mkdir(parents=True)
    (site / "pgserver.libs").mkdir()
    for name in ("initdb", "postgres"):
        (binaries / name).write_text("#!/bin/sh\necho 16\n")
        (binaries / name).chmod(0o700)
    return binaries


def test_programs_in_a_private_directory_are_copied_to_where_the_account_can_run_them(tmp_path: Path) -> None:
    """A virtual environment may be in a home directory that only its owner can read; others stay where they are."""
    private = tmp_path / "home"
    folder = postgres.Path("/tmp") / f"readable-{tmp_path.name}-{id(tmp_path)}"
    folder.mkdir(mode=0o755)
    try:
        binaries = install(private)
        private.chmod(0o700)
        account = choose_account()
        readable = make_readable(binaries, account, folder)
        assert (readable == binaries) == (account is None)
        done = subprocess.run([readable / "postgres"], user=account, capture_output=True, check=True)
        assert done.stdout == b"16\n"
    finally:
        postgres.shutil.rmtree(folder)


def test_a_machine_without_a_server_fails_with_the_command_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of testing less; the server that the package pgserver carries counts."""
    monkeypatch.setattr(postgres, "_FOLDERS", ())
    monkeypatch.setattr(postgres.shutil, "which", lambda _: None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(postgres.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"Run: scripts/postgres\.sh --required"):
        find_binaries()
    monkeypatch.undo()
    binaries = install(tmp_path)
    (tmp_path / "pgserver" / "__init__.py").touch()
    monkeypatch.setattr(postgres, "_FOLDERS", ())
    monkeypatch.setattr(postgres.shutil, "which", lambda _: None)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_binaries() == binaries
