#!/usr/bin/env bash
# Writes requirements.lock from pyproject.toml: exact versions and hashes for every platform, no address of any index.
# Keeps the versions that are already locked; `scripts/lock.sh --upgrade` takes the newest.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev \
    --no-header --no-annotate --no-emit-index-url --no-emit-package ingestion-engine \
    --output-file requirements.lock "$@" pyproject.toml src/ingestion_devstack/pyproject.toml
