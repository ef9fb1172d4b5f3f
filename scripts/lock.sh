#!/usr/bin/env bash
# Writes requirements.lock from both pyproject.toml files: exact versions and hashes for every platform, without the
# address of an index. Locked versions are kept; `scripts/lock.sh --upgrade` updates them.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev \
    --no-header --no-annotate --no-emit-index-url --no-emit-package ingestion-engine \
    --output-file requirements.lock "$@" pyproject.toml src/ingestion_devstack/pyproject.toml
