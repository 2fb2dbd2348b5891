#!/bin/sh
# Installs a package of Debian's or Ubuntu's for its programs only: install-quietly.sh PACKAGE UNIT...; run as root by
# scripts/setup.sh. The package would start a service that listens on every interface, now and at each boot. The
# user of `make demo` did not ask for that: we start our own processes. An existing service is left unchanged.
set -eu

package=$1
shift

policy=/usr/sbin/policy-rc.d
ours=
forget() { if [ -n "$ours" ]; then rm -f "$policy"; fi; }
trap forget EXIT
trap 'exit 130' INT TERM

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'; }

if installed "$package"; then set --; fi # its service may be in use
units=
for unit; do # of a package that it needs, only if that comes with it
    case $unit in
        epmd.*) installed erlang-base || units="$units $unit" ;;
        *) units="$units $unit" ;;
    esac
done

if [ ! -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy" # no service is started while this is there
    chmod 755 "$policy"
fi
sh "$(dirname "$0")/apt-install.sh" "$package"

if [ -d /run/systemd/system ] && [ -n "$units" ]; then
    # shellcheck disable=SC2086  # a list of words
    systemctl disable --now --quiet $units 2>/dev/null || true
    echo "set-up: the service of $package stays off; \`systemctl enable --now ${units# }\` turns it on" >&2
fi
