#!/usr/bin/env bash
# Makes images of the official names that compose/ is built on, from Debian's packages, where they cannot be pulled:
#
#     scripts/compose-images.sh            python:3.11-slim-bookworm, rabbitmq:4, prom/prometheus:v2.53.4
#
# An image that the engine has, or can pull, is left as it is. Needs root and debootstrap. Each image behaves as the
# official one where compose/ depends on it: its user, its entry point, where it reads its settings and writes. They
# are for trying the stack, not for a service. Grafana is not among Debian's packages.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

present() { docker image inspect "$1" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$1" >/dev/null 2>&1; }

# system SUITE PACKAGES: a Debian root in $work/SUITE, without what no service reads.
system() {
    local root=$work/$1 log=$work/$1.log
    rm -rf "$root"
    debootstrap --variant=minbase --include="$2" "$1" "$root" ${DEBIAN_MIRROR:-} >"$log" 2>&1 || { tail -n 15 "$log" >&2; exit 1; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
}

# image NAME SUITE CHANGES…: the root as an image.
image() {
    local name=$1 root=$work/$2 changes=()
    shift 2
    for change in "$@"; do changes+=(--change "$change"); done
    tar -C "$root" --numeric-owner -c . | docker import "${changes[@]}" - "$name" >/dev/null
    rm -rf "$root"
    echo "compose: $name is made from Debian's packages"
}

python_image() {
    system bookworm python3,python3-pip,python3-venv,ca-certificates
    local root=$work/bookworm
    ln -s /usr/bin/python3 "$root/usr/local/bin/python"
    rm "$root/usr/lib/python3.11/EXTERNALLY-MANAGED" # the official image's pip installs into the system, too
    # The official image's pip trusts its own list. Behind a proxy of one's own, this machine's list has its authority.
    install -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    image python:3.11-slim-bookworm bookworm "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin" \
        "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt" 'CMD ["python"]'
}

rabbitmq_image() {
    system trixie rabbitmq-server
    local root=$work/trixie
    chroot "$root" usermod --uid 999 rabbitmq
    chroot "$root" groupmod --gid 999 rabbitmq
    rm -rf "$root"/var/lib/rabbitmq "$root"/var/log/rabbitmq "$root"/etc/rabbitmq
    install -d -o 999 -g 999 "$root"/var/lib/rabbitmq "$root"/var/log/rabbitmq "$root"/etc/rabbitmq{,/conf.d}
    # Debian's commands change the user with su; the official image starts RabbitMQ's own.
    for command in "$root"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/*; do
        ln -sf "${command#"$root"}" "$root/usr/local/sbin/$(basename "$command")"
    done
    install -m 0755 /dev/stdin "$root/usr/local/bin/docker-entrypoint.sh" <<'ENTRY'
#!/bin/bash
set -eu
if [[ "$1" == rabbitmq* && "$(id -u)" == 0 ]]; then
    if [ "$1" = rabbitmq-server ]; then find /var/lib/rabbitmq \! -user rabbitmq -exec chown rabbitmq '{}' +; fi
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups -- "$BASH_SOURCE" "$@"
fi
exec "$@"
ENTRY
    image rabbitmq:4 trixie "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        "ENV HOME=/var/lib/rabbitmq RABBITMQ_DATA_DIR=/var/lib/rabbitmq LANG=C.UTF-8 LC_ALL=C.UTF-8" \
        "VOLUME /var/lib/rabbitmq" "EXPOSE 4369 5671 5672 15691 15692 25672" \
        'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["rabbitmq-server"]'
}

prometheus_image() {
    system bookworm prometheus,wget
    local root=$work/bookworm
    ln -s /usr/bin/prometheus "$root/bin/prometheus" 2>/dev/null || true # /bin is /usr/bin
    rm -rf "$root/etc/prometheus"
    install -d -o 65534 -g 65534 "$root/prometheus" "$root/etc/prometheus"
    image prom/prometheus:v2.53.4 bookworm "ENV PATH=/usr/local/bin:/usr/bin:/bin" "USER nobody" "WORKDIR /prometheus" \
        "VOLUME /prometheus" "EXPOSE 9090" 'ENTRYPOINT ["/bin/prometheus"]' \
        'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
}

present python:3.11-slim-bookworm || python_image
present rabbitmq:4 || rabbitmq_image
present prom/prometheus:v2.53.4 || prometheus_image
