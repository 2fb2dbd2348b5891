#!/usr/bin/env bash
# beside.sh NAME: makes an environment beside the locked one, .cache/NAME of requirements/NAME.txt, if it is not there or
# not of these requirements, and prints where it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=$(command -v uv || true)
uv=${uv:-.cache/uv/bin/uv}
environment=.cache/$1
requirements=requirements/$1.txt
wanted=$(sha256sum "$requirements" | cut -d' ' -f1)

if [ "$(cat "$environment/.set-up" 2>/dev/null || true)" != "$wanted" ]; then
    "$uv" venv --quiet --clear --python "$(.venv/bin/python -c 'import sys; print(sys.executable)')" "$environment"
    "$uv" pip install --quiet --python "$environment/bin/python" --no-deps --require-hashes -r "$requirements"
    printf '%s\n' "$wanted" >"$environment/.set-up"
fi
echo "$environment"
