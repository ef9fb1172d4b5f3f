#!/usr/bin/env bash
# Runs the set-up of deploy/compose.yaml: scripts/compose.sh up|down|secrets
# up creates deploy/.env and deploy/compose/secrets where they are missing, builds the images that are missing, starts
# everything and waits until the service is ready. down stops it and keeps all data. secrets only creates the files.
set -euo pipefail
cd "$(dirname "$0")/.."
secrets=deploy/compose/secrets

say() { printf 'compose: %s\n' "$*" >&2; }

random() { LC_ALL=C tr -dc 'a-zA-Z0-9' </dev/urandom | head -c "$1" || true; }

# A file that exists keeps its value.
secret() { [[ -s $secrets/$1 ]] || printf %s "$2" >"$secrets/$1"; }

create_secrets() {
    (
        umask 077
        mkdir -p "$secrets"
        secret INGEST_S3__ACCESS_KEY_ID "$(random 20)"
        secret INGEST_S3__SECRET_ACCESS_KEY "$(random 40)"
        secret INGEST_QDRANT__API_KEY "$(random 40)"
        secret INGEST_WEAVIATE__API_KEY "$(random 40)"
        secret INGEST_RAY__AUTH_TOKEN "$(random 40)"
        secret postgres_password "$(random 40)"
        secret grafana_password "$(random 24)"
        secret ingest_api_key "$(random 40)"
        secret INGEST_DATABASE_URL "postgresql://ingest:$(cat "$secrets/postgres_password")@postgres:5432/ingest"
        rm -f "$secrets/qdrant.yaml"
        secret qdrant.yaml "service: {api_key: \"$(cat "$secrets/INGEST_QDRANT__API_KEY")\"}"
        secret api_keys.json "[{\"name\": \"admin\", \"key_sha256\": \"$(sha256 <"$secrets/ingest_api_key")\"}]"
    )
    # Each container has another user, and sees a file with its owner and mode here: the directory protects them.
    chmod 700 "$secrets"
    chmod 644 "$secrets"/*
}

sha256() { { command -v sha256sum >/dev/null && sha256sum || shasum -a 256; } | cut -d' ' -f1; }

# From there it also reads deploy/.env and deploy/compose.override.yaml, as the commands in the docs do.
compose() { (cd deploy && "${engine[@]}" compose "$@"); }

find_engine() {
    local candidate
    for candidate in docker podman; do
        if "$candidate" compose version >/dev/null 2>&1; then
            engine=("$candidate")
            return
        fi
    done
    say "neither 'docker compose' nor 'podman compose' found; install Docker Compose 2.20 or newer:"
    say "https://docs.docker.com/compose/install/"
    exit 1
}

up() {
    local target image version
    if [[ ! -e deploy/.env ]]; then
        cp deploy/compose/env.example deploy/.env
        say "wrote deploy/.env"
    fi
    create_secrets
    version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/ingestion_engine/__init__.py)"
    for target in service:ingestion-engine ray-worker:ingestion-engine-ray; do
        image="${target#*:}"
        # With IMAGE_PREFIX the images come from that registry.
        if grep -q '^IMAGE_PREFIX=.' deploy/.env || "${engine[@]}" image inspect "$image:$version" >/dev/null 2>&1; then
            continue
        fi
        scripts/image.sh "${target%%:*}" "$image"
    done
    compose up --detach --remove-orphans
    say "waiting until the service is ready"
    for _ in $(seq 60); do
        if compose exec -T service python -I /opt/ingest/healthcheck.py 8080 /readyz >/dev/null 2>&1; then
            say "ready. Log in at http://$(compose port service 8080) with the API key that this prints:"
            say "  cat $secrets/ingest_api_key"
            say "next: docs/deploy/compose.md"
            return
        fi
        sleep 2
    done
    compose ps --all
    say "the service is not ready; see: cd deploy && docker compose logs service"
    exit 1
}

case "${1:-}" in
up) find_engine && up ;;
down) find_engine && compose --profile '*' down --remove-orphans ;;
secrets) create_secrets ;;
*)
    sed -n '2,4s/^# //p' "$0"
    exit 2
    ;;
esac
