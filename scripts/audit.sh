#!/usr/bin/env bash
# Checks the code by bandit and the locked packages by pip-audit, in an environment of their own
# (scripts/separate-environment.sh). If no vulnerability service can be reached, it prints that, without an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

audit=$(scripts/separate-environment.sh audit)

found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT

# Its warnings are of the parts of a marked line in which it finds nothing.
if ! "$audit/bin/bandit" --quiet --configfile pyproject.toml --recursive fedbroker workers core handover 2>"$found/bandit"; then
    cat "$found/bandit" >&2
    exit 1
fi

# Its own code is 1 for vulnerabilities and for a service that cannot be reached: its report tells which.
for lock in dev audit silo-3.12; do
    "$audit/bin/pip-audit" --disable-pip --no-deps --progress-spinner off --format json \
        --output "$found/$lock.json" --requirement "requirements/$lock.txt" >"$found/words" 2>&1 || true
done
.venv/bin/python scripts/vulnerabilities.py "$found"/{dev,audit,silo-3.12}.json requirements/vulnerabilities.toml
