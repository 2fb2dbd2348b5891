#!/bin/sh
# Installs Debian's or Ubuntu's rabbitmq-server for its programs only; run as root by scripts/setup.sh.
# The package would start a service that listens on every interface, now and at each boot. Whoever typed `make demo`
# did not ask for that: we start nodes of our own. A service that was there before is left as it is.
set -eu

policy=/usr/sbin/policy-rc.d
ours=
forget() { if [ -n "$ours" ]; then rm -f "$policy"; fi; }
trap forget EXIT
trap 'exit 130' INT TERM

units=rabbitmq-server.service
dpkg -s erlang-base >/dev/null 2>&1 || units="$units epmd.service epmd.socket"

if [ ! -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy" # no service is started while this is there
    chmod 755 "$policy"
fi
sh "$(dirname "$0")/apt-install.sh" rabbitmq-server

if [ -d /run/systemd/system ]; then
    # shellcheck disable=SC2086  # a list of words
    systemctl disable --now --quiet $units 2>/dev/null || true
    echo "set-up: RabbitMQ's own service stays off; \`systemctl enable --now rabbitmq-server\` turns it on" >&2
fi
