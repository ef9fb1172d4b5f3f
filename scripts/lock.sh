#!/usr/bin/env bash
# Writes requirements.lock from both pyproject.toml files: exact versions and hashes for every platform, without the
# address of an index. Locked versions are kept; `scripts/lock.sh --upgrade` updates them.
# Then writes the locks of the images, with the same versions: wheels only, for both architectures.
set -euo pipefail
cd "$(dirname "$0")/.."
common=(--quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-package ingestion-engine)
.venv/bin/uv pip compile "${common[@]}" --universal --python-version 3.11 --extra dev \
    --output-file requirements.lock "$@" pyproject.toml src/ingestion_devstack/pyproject.toml

# Python of the images; service, driver and workers of a job must have the same minor version.
python=3.11
other="$(mktemp)"
trap 'rm -f "$other" "$other.in"' EXIT
# Ubuntu 22.04 of the Spark image has the oldest C library of the three, 2.35.
lock_image() {
    local out=$1 options=("${common[@]}" --python-version "$python" --no-config
        --only-binary :all: --constraints requirements.lock)
    shift
    .venv/bin/uv pip compile "${options[@]}" --python-platform x86_64-manylinux_2_28 --output-file "$out" "$@"
    .venv/bin/uv pip compile "${options[@]}" --python-platform aarch64-manylinux_2_28 --output-file "$other" "$@"
    diff "$out" "$other" || { echo "lock: $out differs between x86_64 and aarch64" >&2; exit 1; }
}

lock_extras() {
    local out=$1 extra extras=()
    shift
    for extra in "$@"; do extras+=(--extra "$extra"); done
    lock_image "$out" "${extras[@]}" pyproject.toml
}

lock_extras deploy/images/service/requirements.lock api gateway kubernetes postgres tracing weaviate
# The image of Ray has an environment of its own, with Ray (decision 44); Spark comes from the base image.
lock_extras deploy/images/ray-worker/requirements.lock ray tracing
lock_extras deploy/images/spark/requirements.lock worker tracing
grep '^hatchling==' requirements.lock | cut -d' ' -f1 >"$other.in"
lock_image deploy/images/build.lock "$other.in"
