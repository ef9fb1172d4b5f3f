#!/usr/bin/env bash
# Finds a PostgreSQL server for the tests: the system's, else the one in the package pgserver. Where there is neither,
# installs Debian's as root. Without one, this script prints a message and succeeds; with --required, it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

find_postgres() { PYTHONPATH=tests .venv/bin/python -c 'from support.postgres import find_binaries; find_binaries()' 2>/dev/null; }

install_postgres() {
    [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    say "no PostgreSQL server found; installing postgresql with apt-get, for the tests"
    apt-get update -qq >/dev/null 2>&1 || true
    # the tests start servers of their own; a cluster of the system would only hold its port
    mkdir -p /etc/postgresql-common && [[ -e /etc/postgresql-common/createcluster.conf ]] ||
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    apt-get install -y -qq --no-install-recommends postgresql >/dev/null 2>&1
}

find_postgres && exit 0
install_postgres && find_postgres && exit 0
say "no PostgreSQL server found; only the tests require it. On Debian or Ubuntu: sudo apt-get install postgresql"
if [[ ${1:-} == --required ]]; then
    exit 1
fi
