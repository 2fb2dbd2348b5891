#!/bin/sh
# Installs Debian or Ubuntu packages; run as root. Says nothing unless that fails, and then what apt-get said last.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

said=$(mktemp)
trap 'rm -f "$said"' EXIT
trap 'exit 130' INT TERM

apt() { apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@" </dev/null >>"$said" 2>&1; }

apt update || true # it may know enough already
if ! apt install -y --no-install-recommends "$@"; then
    tail -n 15 "$said" >&2
    exit 1
fi
