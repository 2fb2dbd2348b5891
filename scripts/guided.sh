#!/usr/bin/env bash
# Fuzzes a target of tests/fuzz by Atheris (guided.sh TARGET [libFuzzer's options]), or each for a minute. Atheris lies in
# .cache/atheris, beside the locked environment: it has no wheels for every platform that we run on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=$(command -v uv || true)
uv=${uv:-.cache/uv/bin/uv}
beside=.cache/atheris
wanted=$(sha256sum requirements/guided.txt | cut -d' ' -f1)

if [ "$(cat "$beside/.set-up" 2>/dev/null || true)" != "$wanted" ]; then
    rm -rf "$beside"
    "$uv" pip install --quiet --python .venv/bin/python --target "$beside" --no-deps --require-hashes -r requirements/guided.txt
    printf '%s\n' "$wanted" >"$beside/.set-up"
fi

fuzz() { PYTHONPATH=$beside .venv/bin/python -m tests.fuzz.guided "$@"; }

if [ $# -gt 0 ]; then
    fuzz "$@"
else
    for target in tests/fuzz/corpus/*/; do
        echo "$(basename "$target"):"
        fuzz "$(basename "$target")" -max_total_time=60 -verbosity=0 -print_final_stats=1
    done
fi
