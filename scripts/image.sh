#!/usr/bin/env bash
# Builds one image: scripts/image.sh service|ray-worker|spark NAME [option of the build ...]
# The tag is the version; REGISTRY (registry.example.com/team) goes before the name, SOURCE into the label of that name.
set -euo pipefail
cd "$(dirname "$0")/.."
image=$1 name=$2
shift 2

if docker buildx version >/dev/null 2>&1; then
    engine=docker
elif command -v podman >/dev/null; then
    engine=podman
else
    echo "image: neither docker with buildx nor podman found; install one: https://docs.docker.com/engine/install/" >&2
    exit 1
fi
version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/ingestion_engine/__init__.py)"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
[[ -z "$(git status --porcelain 2>/dev/null)" ]] || revision+=-modified
# Without the credentials that the address of a remote may hold.
source="${SOURCE:-$(git config --get remote.origin.url 2>/dev/null | sed -E 's#//[^/@]*@#//#' || true)}"
tag="${REGISTRY:+${REGISTRY%/}/}$name:$version"

"$engine" build --file "deploy/images/$image/Dockerfile" --tag "$tag" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "SOURCE=${source:-unknown}" "$@" .
echo "image: built $tag"
