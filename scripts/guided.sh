#!/usr/bin/env bash
# Fuzzes a target of tests/fuzz by Atheris (guided.sh TARGET [libFuzzer's options]), or each for a minute. Atheris has
# no wheels for some of our platforms, so it has its own environment (scripts/separate-environment.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

atheris=$(echo "$(scripts/separate-environment.sh guided)"/lib/python3*/site-packages)

fuzz() { PYTHONPATH=$atheris .venv/bin/python -m tests.fuzz.guided "$@"; }

if [ $# -gt 0 ]; then
    fuzz "$@"
else
    for target in tests/fuzz/corpus/*/; do
        echo "$(basename "$target"):"
        fuzz "$(basename "$target")" -max_total_time=60 -verbosity=0 -print_final_stats=1
    done
fi
