#!/usr/bin/env bash
# separate-environment.sh NAME: prints the path of the environment .cache/NAME, separate from the locked one. Creates it
# from requirements/NAME.txt first if it does not exist or has other requirements.
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
