#!/usr/bin/env bash
# Finds the Chromium that the tests of the console drive; where there is none, installs Debian's as root. Without one,
# this script prints a message and succeeds; with --required, it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

find_chromium() { PYTHONPATH=tests .venv/bin/python -c 'from support.browser import find_chromium; find_chromium()' 2>/dev/null; }

install_chromium() {
    [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || return 1
    export DEBIAN_FRONTEND=noninteractive
    say "no Chromium found; installing chromium with apt-get, for the tests"
    apt-get update -qq >/dev/null 2>&1 || true
    apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1
}

find_chromium && exit 0
install_chromium && find_chromium && exit 0
say "no Chromium found; only the tests of the console require it. On Debian or Ubuntu: sudo apt-get install chromium"
if [[ ${1:-} == --required ]]; then
    exit 1
fi
