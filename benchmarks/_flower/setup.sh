#!/usr/bin/env bash
# An environment of its own for Flower, in .cache/flower: its packages do not go together with TFF's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
readonly wanted=flwr==1.42.0

uv=$(command -v uv || printf '%s\n' "$PWD/.cache/uv/bin/uv")
if [ "$(cat .cache/flower/.set-up 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
mkdir -p .cache
"$uv" venv --quiet --no-project --clear --python .venv/bin/python .cache/flower
"$uv" pip install --quiet --python .cache/flower/bin/python "$wanted"
printf '%s\n' "$wanted" >.cache/flower/.set-up
