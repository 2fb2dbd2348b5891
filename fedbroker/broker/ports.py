"""Ports of the loopback for a private node."""

from __future__ import annotations

import random
import socket
from pathlib import Path

__all__ = ["free_ports", "is_free", "speaks_amqp"]

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_240
_HEADER = b"AMQP\x00\x00\x09\x01"  # the protocol header of AMQP 0-9-1


def is_free(port: int) -> bool:
    """Return whether a server could listen on that port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> tuple[int, ...]:
    """Return ``count`` free ports, outside the range from which the kernel takes ports for outgoing connections.

    Within that range, a client that keeps connecting to a stopped broker can be given the broker's own port, connect to
    itself, and keep the broker from ever listening again.
    """
    candidates = range(_LOWEST, max(_outgoing_from(), _LOWEST + 10_000))
    found: list[int] = []
    for port in random.sample(candidates, k=len(candidates)):
        if is_free(port):
            found.append(port)
        if len(found) == count:
            break
    return tuple(found)


def _outgoing_from() -> int:
    try:
        return int(_RANGE.read_text().split()[0])
    except (OSError, ValueError):
        return 32_768


def speaks_amqp(port: int) -> bool:
    """Return whether a broker answers the protocol header with its first frame (a method's: 1)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(_HEADER)
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
