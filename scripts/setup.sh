#!/usr/bin/env bash
# Installs the needs of `make demo`, `make test` and the other recipes, and does nothing if they are complete: a private
# .venv with the locked environment, and RabbitMQ's server. The argument `tests` adds the programs that check config/:
# Prometheus with its promtool, and systemd-analyze.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

say() { printf 'set-up: %s\n' "$*" >&2; }
fail() { printf 'set-up: error: %s\n' "$*" >&2; exit 1; }

# Nothing of an environment that happens to be active may end up in ours.
unset VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME UV_PYTHON UV_SYSTEM_PYTHON UV_PROJECT_ENVIRONMENT
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

venv=$root/.venv
python=$venv/bin/python
stamp=$venv/.set-up
readonly oldest_uv=0.5.0

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else return 1; fi
}

wanted() { # what the environment is made of, and where: a virtual environment cannot be moved
    { printf '%s\n' "$root"; cat requirements/dev.txt requirements/uv.txt pyproject.toml core/pyproject.toml \
        core/hatch_build.py workers/pyproject.toml scripts/setup.sh; } | sha256sum | cut -d' ' -f1
}

new_enough() { # whether a uv is not older than what these scripts were written for
    local version
    version=$("$1" --version 2>/dev/null | cut -d' ' -f2) && [ -n "$version" ] \
        && [ "$(printf '%s\n%s\n' "$oldest_uv" "$version" | sort -V | head -n1)" = "$oldest_uv" ]
}

pip_somewhere() { # print a command that is pip, which a bare Debian python3 is without
    if python3 -m pip --version >/dev/null 2>&1; then
        printf 'python3\n'
    elif python3 -m venv --clear .cache/pip >/dev/null 2>&1; then
        printf '.cache/pip/bin/python\n'
    elif command -v apt-get >/dev/null && {
        say "installing python3-venv, which uv comes through"
        as_root sh scripts/apt-install.sh python3-venv >&2
    } && python3 -m venv --clear .cache/pip >/dev/null 2>&1; then
        printf '.cache/pip/bin/python\n'
    else
        return 1
    fi
}

find_uv() { # print the path of uv: the one on PATH, or a private one
    local found
    found=$(command -v uv || true)
    if [ -n "$found" ] && new_enough "$found"; then
        printf '%s\n' "$found"
        return
    fi
    if ! new_enough .cache/uv/bin/uv; then
        command -v python3 >/dev/null || fail "no python3: \`apt-get install python3\`"
        mkdir -p .cache
        local pip
        pip=$(pip_somewhere) || fail "python3 has no pip: \`apt-get install python3-venv\`, or put uv on PATH" \
            "(https://docs.astral.sh/uv/)"
        say "installing uv into .cache/uv"
        rm -rf .cache/uv
        "$pip" -m pip install --quiet --no-deps --require-hashes --target .cache/uv -r requirements/uv.txt >&2 \
            || fail "pip could not install uv: is the package registry reachable from here?"
    fi
    printf '%s\n' "$root/.cache/uv/bin/uv"
}

new_venv() { # with the system's Python 3.11, or else one that uv fetches; not Ubuntu 22.04's release candidate
    "$1" venv --quiet --no-project --clear --python '>=3.11.1,<3.12' "$venv" \
        || fail "there is no Python 3.11, and uv could not fetch one: install it by other means, or set" \
            "UV_PYTHON_INSTALL_MIRROR to a mirror of python-build-standalone's releases that can be reached from here"
}

make_environment() {
    local uv
    uv=$(find_uv)
    rm -f "$stamp"
    if ! "$python" -c 'import sys; raise SystemExit(not (3, 11, 1) <= sys.version_info < (3, 12))' 2>/dev/null; then
        say "making .venv with Python 3.11"
        new_venv "$uv"
    fi
    say "installing the locked packages (about 600 MB the first time)"
    "$uv" pip sync --quiet --python "$python" --require-hashes \
        --build-constraints requirements/dev.txt requirements/dev.txt \
        || fail "the packages could not be installed: is the package registry reachable, and the disk not full?"
    "$uv" pip install --quiet --python "$python" --no-deps --no-build-isolation --offline -e . -e core -e workers
    wanted >"$stamp"
}

broker_is_there() {
    "$python" -c 'from fedbroker.broker.server import find_erlang, find_server; find_server(); find_erlang()' 2>/dev/null
}

install() { # PACKAGE UNIT...
    say "installing $1"
    command -v apt-get >/dev/null && as_root sh scripts/install-quietly.sh "$@" >&2
}

prometheus_is_there() { command -v prometheus >/dev/null && command -v promtool >/dev/null; }

judges() {
    if ! prometheus_is_there; then
        if ! install prometheus prometheus.service || ! prometheus_is_there; then
            fail "there is no Prometheus, and installing it needs apt-get with root or sudo: put prometheus and" \
                "promtool on PATH by other means"
        fi
    fi
    if ! command -v chromium >/dev/null; then
        install chromium || fail "there is no Chromium, and installing it needs apt-get with root or sudo: put chromium" \
            "on PATH by other means"
    fi
    if ! command -v systemd-analyze >/dev/null; then
        install systemd || fail "there is no systemd-analyze: install the package systemd"
    fi
}

main() {
    mkdir -p .cache
    exec 9>.cache/set-up.lock
    flock 9 # two of us at once would spoil each other's work
    if [ "$(cat "$stamp" 2>/dev/null)" != "$(wanted)" ]; then
        make_environment
    fi
    if ! broker_is_there; then
        if ! install rabbitmq-server rabbitmq-server.service epmd.service epmd.socket || ! broker_is_there; then
            fail "there is no RabbitMQ server, and installing it needs apt-get with root or sudo: install" \
                "rabbitmq-server by other means, or set FEDBROKER_RABBITMQ_HOME to the directory that holds its sbin/"
        fi
    fi
    if [ "${1-}" = tests ]; then
        judges
    fi
}

main "$@"
