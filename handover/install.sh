#!/bin/sh
# Installs a silo or a coordinator into a virtual environment, by the plain pip of the machine's Python:
#
#     ./install.sh silo [DIRECTORY]            Python 3.11 or newer; by default into ./fedbroker-silo
#     ./install.sh coordinator [DIRECTORY]     Python 3.11; by default into ./fedbroker-coordinator
#
# PYTHON names the interpreter; otherwise the first on PATH that fits is taken. Every package is checked against the
# hashes in requirements/. An environment that this script made is brought up to date.
set -eu
umask 022 # a service's user reads the environment, too

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
scratch=

say() { printf 'install: %s\n' "$*" >&2; }
fail() { printf 'install: error: %s\n' "$*" >&2; exit 1; }
leave() { if [ -n "$scratch" ]; then rm -rf "$scratch"; fi; }
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fits() { "$1" -c "import sys; raise SystemExit(not ($suits))" 2>/dev/null; }

find_python() { # sets $python; tells of a Python that does not fit in one line
    if [ -n "${PYTHON-}" ]; then set -- "$PYTHON"; else set -- $known; fi
    for python in "$@"; do
        if fits "$python"; then return; fi
    done
    for python in "$@"; do # a version manager's command may run no Python
        found=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null) \
            && fail "fedbroker's $role needs Python $needs; this is $found"
    done
    fail "fedbroker's $role needs Python $needs; $1 does not run"
}

check_machine() {
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] \
        || fail "TensorFlow Federated's C++ runtime needs Linux on x86-64; this is $(uname -s) on $(uname -m)"
    "$python" -c 'import os; assert [*map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))] >= [2, 31]' \
        2>/dev/null || fail "TensorFlow Federated's C++ runtime needs glibc 2.31 or newer"
    "$python" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "$python cannot make virtual environments: on Debian, \`apt-get install python3-venv\`"
}

make_environment() {
    mark=$directory/.fedbroker-$role
    if [ -e "$directory" ] && [ -n "$(ls -A "$directory")" ] && [ ! -e "$mark" ]; then
        fail "$directory exists and was not made by this script for a $role: name another directory"
    fi
    if ! fits "$directory/bin/python"; then
        say "making an environment with $("$python" --version) in $directory"
        "$python" -m venv --clear "$directory" || fail "$python could not make the environment $directory"
        : >"$mark"
    fi
}

pip() { # of the environment; it neither asks nor looks for a newer self
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore "$directory/bin/python" -m pip "$@" \
        || fail "pip failed: see its lines above"
}

install_locked() { # FILE: packages of other authors, from the registry that pip is set to
    say "installing the packages of requirements/$1"
    pip install --quiet --no-deps --require-hashes --only-binary :all: -r "$here/requirements/$1"
}

install_runtime() { # installers refuse TFF's wheel on Python 3.12 and newer, and its other needs are no silo's
    say "installing TensorFlow Federated's C++ runtime"
    scratch=$(mktemp -d)
    pip download --quiet --no-deps --require-hashes --only-binary :all: --python-version 3.11 \
        --platform manylinux_2_31_x86_64 --dest "$scratch" -r "$here/requirements/runtime.txt"
    made=$("$directory/bin/python" "$here/runtime_wheel.py" "$scratch"/tensorflow_federated-*.whl "$scratch") \
        || fail "the C++ runtime could not be taken out of TensorFlow Federated's wheel"
    pip install --quiet --no-deps --no-index --force-reinstall "$made"
    rm -rf "$scratch"
    scratch=
}

install_ours() {
    say "installing fedbroker"
    pip install --quiet --no-deps --no-index --force-reinstall --require-hashes --find-links "$here/wheels" \
        -r "$here/requirements/fedbroker-$role.txt"
}

usage() {
    sed -n 's/^# \{0,1\}//p' "$0" | sed '/^!/d'
    exit 2
}

role=${1-}
case $role in
    silo)
        needs="3.11 or newer" suits="sys.version_info >= (3, 11, 1)"
        known="python3 python3.13 python3.12 python3.11" ;;
    coordinator)
        needs="3.11" suits="(3, 11, 1) <= sys.version_info < (3, 12)"
        known="python3 python3.11" ;;
    *) usage ;;
esac
[ $# -le 2 ] || usage
find_python
check_machine
directory=${2-fedbroker-$role}
make_environment
directory=$(CDPATH='' cd -- "$directory" && pwd)

case $role in
    silo)
        lock=silo-3.12.txt
        if "$directory/bin/python" -c 'import sys; raise SystemExit(sys.version_info >= (3, 12))'; then
            lock=silo.txt
        fi
        install_locked "$lock"
        install_runtime
        install_ours
        "$directory/bin/python" -c 'from fedbroker.runtime.process import installed_binary; installed_binary()'
        found=$("$directory/bin/fedbroker-silo" --version)
        say "fedbroker-silo $found is installed: $directory/bin/fedbroker-silo --help" ;;
    coordinator)
        install_locked coordinator.txt
        install_ours
        TF_CPP_MIN_LOG_LEVEL=2 "$directory/bin/python" -W ignore -c \
            'import fedbroker; fedbroker.set_sync_execution_context'
        found=$("$directory/bin/fedbroker" --version)
        say "fedbroker $found is installed: $directory/bin/python is for programs, $directory/bin/fedbroker for the rest" ;;
esac
