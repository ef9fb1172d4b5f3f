#!/usr/bin/env bash
# Looks for the Java that Spark needs; as root on Debian or Ubuntu, installs it. Only Spark needs it, so without Java this
# says so and succeeds; with --required, which the tests of Spark make it, it fails.
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
say "no Java 17 or 21 found; only Spark needs it. On Debian or Ubuntu: sudo apt-get install openjdk-17-jre-headless"
if [[ ${1:-} == --required ]]; then
    say "the tests of Spark need it"
    exit 1
fi
