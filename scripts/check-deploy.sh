#!/usr/bin/env bash
# Judges config/kubernetes by Kubernetes' own schemas, and compose/ by Compose where a client of it is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT

.venv/bin/python -m tests.support.kustomize "$rendered"
.venv/bin/kubernetes-validate --strict --quiet "$rendered"/*.yaml

if docker compose version >/dev/null 2>&1; then # Compose v2; no daemon is asked for this
    docker compose -f compose/compose.yaml --profile '*' config --quiet
    docker compose -f compose/compose.yaml -f compose/tls.yaml -f compose/watch.yaml -f compose/board.yaml --profile '*' config --quiet
fi
