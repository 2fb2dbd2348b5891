"""Reachability of the runtime's port: with a namespace at no address, without one at any, which shows that probes work.

Executed by path, this file is a host with its own network: a loopback, and a wire to another namespace.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import fedbroker
from fedbroker.runtime import Runtime
from fedbroker.runtime.host.kernel import raise_loopback
from tests.support.wait import PROCESS_SECONDS

ROOT = str(Path(fedbroker.__file__).parent.parent)
NEWNET = 0x40000000
HERE, THERE = "10.83.0.1", "10.83.0.2"
CONNECTED = 0


def port_of(runtime):
    """Return the port that the runtime's worker was started with."""
    worker = psutil.Process(runtime.pid).children(recursive=True)[-1]
    (option,) = [argument for argument in worker.cmdline() if argument.startswith("--port=")]
    return int(option.removeprefix("--port="))


def probe(address, port):
    """Return 0 if a connection to the port succeeds, and the errno otherwise."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(3.0)
        return sock.connect_ex((address, port))


def addresses():
    """Return every address of every interface that a socket can connect to without an interface name."""
    found = [
        one.address
        for interface in psutil.net_if_addrs().values()
        for one in interface
        if one.family in (socket.AF_INET, socket.AF_INET6) and "%" not in one.address
    ]
    return sorted({"127.0.0.1", "::1", *found})


@pytest.mark.parametrize(("isolation", "reached"), [("namespace", False), ("none", True)])
async def test_port_is_unreachable_at_every_address_of_this_host(isolation, reached):
    runtime = Runtime(isolation=isolation)
    await runtime.start()
    port = port_of(runtime)
    results = {address: await asyncio.to_thread(probe, address, port) for address in addresses()}
    await runtime.close()
    # An address of a disabled family is unreachable in either case.
    usable = {address: result for address, result in results.items() if address != "::1" or socket.has_ipv6}
    assert results["127.0.0.1"] == CONNECTED if reached else CONNECTED not in usable.values(), results


@pytest.mark.parametrize(("isolation", "reached"), [("namespace", False), ("none", True)])
def test_port_is_unreachable_from_another_namespace(isolation, reached):
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, __file__, isolation],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results.pop("the wire works") == CONNECTED
    assert len(results) == 2
    assert [result == CONNECTED for result in results.values()] == [reached, False], results


# --- a simulated host ---


def attribute(kind, content):
    padding = -len(content) % 4
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(padding)


def lay_wire(name, peer, pid):
    """Connect two network interfaces: ``name`` here, ``peer`` in the network namespace of that process."""
    header = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)
    other = header + attribute(3, peer.encode() + b"\0") + attribute(19, struct.pack("=I", pid))
    info = attribute(1, b"veth") + attribute(2, attribute(1, other))
    body = header + attribute(3, name.encode() + b"\0") + attribute(18, info)
    request, acknowledge, exclusive, create = 0x1, 0x4, 0x200, 0x400
    flags = request | acknowledge | exclusive | create
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(body), 16, flags, 1, 0) + body)
        answer = sock.recv(4096)
    (error,) = struct.unpack_from("=i", answer, 16)
    if error:
        raise OSError(-error, os.strerror(-error))


def give_address(name, address):
    """Assign an address in a network of 256, and enable the interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for request, of in ((0x8916, address), (0x891C, "255.255.255.0")):
            content = struct.pack("=16sHH4s8x8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(of))
            fcntl.ioctl(sock, request, content)
        fcntl.ioctl(sock, 0x8914, struct.pack("=16sH22x", name.encode(), 0x1))


def neighbour(orders):
    """Answer ``address port`` with a probe, in another network namespace at the other end of the wire."""
    assert ctypes.CDLL(None, use_errno=True).unshare(NEWNET) == 0
    orders.send(b"ready")
    while order := orders.recv(256):
        if order == b"wired":
            raise_loopback()
            give_address("there", THERE)
            orders.send(b"configured")
        else:
            address, port = order.decode().split()
            orders.send(str(probe(address, int(port))).encode())


def host_with_neighbour(isolation):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        neighbour(theirs)
        os._exit(0)
    theirs.close()

    def ask(order):
        ours.send(order.encode())
        return ours.recv(256)

    assert ours.recv(256) == b"ready"
    raise_loopback()
    lay_wire("here", "there", child)
    give_address("here", HERE)
    assert ask("wired") == b"configured"
    print(json.dumps(asyncio.run(probed(isolation, ask))))
    ours.close()
    os.waitpid(child, 0)


async def probed(isolation, ask):
    runtime = Runtime(isolation=isolation, log=lambda _line: None)
    await runtime.start()
    port = port_of(runtime)
    with socket.create_server((HERE, 0)) as control:
        results = {"the wire works": int(ask(f"{HERE} {control.getsockname()[1]}"))}
    results["host's address"] = int(ask(f"{HERE} {port}"))
    results["own loopback"] = int(ask(f"127.0.0.1 {port}"))
    await runtime.close()
    return results


if __name__ == "__main__":
    host_with_neighbour(sys.argv[1])
