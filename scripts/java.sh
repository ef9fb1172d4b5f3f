#!/usr/bin/env bash
# Finds the Java that Spark requires, and installs it when run as root on Debian or Ubuntu. Without Java, this script
# prints a message and succeeds, because only Spark requires it; with --required, as for the tests, it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

find_java() { .venv/bin/python -c 'from ingestion_devstack.kubernetes.find_spark import find_java; find_java()' 2>/dev/null; }

install_java() {
    local package
    [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null 2>&1 || true
    for package in openjdk-17-jre-headless openjdk-21-jre-headless; do
        say "no Java 17 or 21 found; installing $package with apt-get, for Spark"
        apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 && return 0
    done
    return 1
}

find_java && exit 0
install_java && find_java && exit 0
say "no Java 17 or 21 found; only Spark requires it. On Debian or Ubuntu: sudo apt-get install openjdk-17-jre-headless"
if [[ ${1:-} == --required ]]; then
    say "the tests of Spark require it"
    exit 1
fi
