#!/usr/bin/env bash
# silo-tests.sh [PYTEST'S ARGUMENTS]: runs the silo's tests where neither TensorFlow nor TFF is installed, in an
# environment that install.sh makes: .cache/silo-tests-VERSION. PYTHON names the interpreter (python3 by default). The
# tests that need TFF are listed and not run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=$("${PYTHON:=python3}" -c 'import sys; print("{}.{}".format(*sys.version_info))') \
    || { echo "silo-tests: $PYTHON does not run" >&2; exit 1; }
environment=$PWD/.cache/silo-tests-$version
scripts/build.sh .cache/silo-tests >/dev/null
PYTHON=$PYTHON .cache/silo-tests/install.sh silo "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary :all: -r requirements/silo-tests.txt
"$environment/bin/python" -c 'import platform, numpy, google.protobuf as p
print(f"silo-tests: Python {platform.python_version()}, numpy {numpy.__version__}, protobuf {p.__version__}")'

chosen=
for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then chosen=yes; fi
done
if [ -z "$chosen" ]; then
    mapfile -t files < <("$environment/bin/python" -m tests.support.without_tff \
        tests/unit/test_{graphs,policy,runtime,transport,trust,wire,worker}_*.py tests/unit/test_trust.py \
        tests/integration/test_{runtime,worker}_*.py)
    set -- "$@" "${files[@]}"
fi
exec "$environment/bin/python" -m pytest -p no:cacheprovider "$@"
