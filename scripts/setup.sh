#!/usr/bin/env bash
# Installs exactly the packages of requirements.lock, and both packages of this checkout, into .venv.
# Requires Python 3.11 or newer and a package index that pip can reach. Does nothing when .venv is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed
wanted="$(cat requirements.lock pyproject.toml src/ingestion_devstack/pyproject.toml | cksum) $PWD"
if [[ -f $stamp && "$(cat "$stamp")" == "$wanted" ]] && .venv/bin/python -c 'import ingestion_engine, ingestion_devstack' 2>/dev/null; then
    exit 0
fi

say() { printf 'setup: %s\n' "$*" >&2; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    say "no Python 3.11 or newer found; install it, or run: make setup PYTHON=/path/to/python3.11"
    return 1
}

make_venv() {
    "$1" -m venv --clear .venv >.venv.log 2>&1 && .venv/bin/python -m pip --version >/dev/null 2>&1
}

python="$(find_python)"
say "using $("$python" --version) at $python"
if ! make_venv "$python"; then
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
        say "this Python cannot make virtual environments; installing python$version-venv with apt-get"
        apt-get update -qq && { apt-get install -y -qq "python$version-venv" || apt-get install -y -qq python3-venv; } >/dev/null
    fi
    if ! make_venv "$python"; then
        cat .venv.log >&2
        say "this Python cannot make virtual environments; on Debian or Ubuntu: sudo apt-get install python$version-venv"
        exit 1
    fi
fi
rm -f .venv.log

# uv is pinned by the lock as well. Where it cannot reach the index, plain pip is used.
export PIP_DISABLE_PIP_VERSION_CHECK=1
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}" # the authorities of the system, as pip uses them
install_by_uv() {
    [[ ${INGEST_SETUP:-uv} == uv ]] || return 1
    awk '/^uv==/ {on = 1} on {print} on && !/\\$/ {exit}' requirements.lock >.venv/uv.lock
    .venv/bin/python -m pip install --quiet --no-deps --require-hashes -r .venv/uv.lock &&
        .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes --compile-bytecode \
            -r requirements.lock
}
say "installing the locked packages (about 2 GB on disk)"
if ! install_by_uv; then
    say "installing with plain pip"
    .venv/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
fi
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --no-index --editable . --editable src/ingestion_devstack
echo "$wanted" >"$stamp"
scripts/java.sh
say "done"
