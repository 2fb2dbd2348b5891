#!/usr/bin/env bash
# build.sh [DIRECTORY]: makes the directory that installs a silo or a coordinator without this repository, by default
# dist/fedbroker-VERSION. The same commit gives the same bytes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
umask 022
export SOURCE_DATE_EPOCH=1580601600 # 2020-02-02, hatchling's own default

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
made=$(realpath -m "${1:-dist/fedbroker-$version}")
rm -rf "$made"
mkdir -p "$made"/wheels "$made"/requirements

for project in . core workers; do
    (cd "$project" && "$root/.venv/bin/hatchling" build -t wheel -d "$made/wheels" >/dev/null)
done
chmod 0644 "$made"/wheels/*.whl

install -m 0755 handover/install.sh "$made"
install -m 0644 handover/README.md handover/runtime_wheel.py config/silo.example.toml LICENSE "$made"
install -m 0644 requirements/{silo,silo-3.12,coordinator,runtime}.txt "$made/requirements"

locked() { # DISTRIBUTION...: their lines of a hashed lock
    local name wheel
    for name in "$@"; do
        wheel=$made/wheels/${name//-/_}-$version-py3-none-any.whl
        printf '%s==%s --hash=sha256:%s\n' "$name" "$version" "$(sha256sum "$wheel" | cut -d' ' -f1)"
    done
}
locked fedbroker-core fedbroker-worker >"$made/requirements/fedbroker-silo.txt"
locked fedbroker-core fedbroker >"$made/requirements/fedbroker-coordinator.txt"

(cd "$made" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum >SHA256SUMS)
echo "$made"
