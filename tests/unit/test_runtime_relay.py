"""The relay between a Unix socket and a port: every byte in both directions, and the end of either side."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from fedbroker.runtime.host.supervisor import relay

SIZE = 5_000_003


@pytest.fixture
def ends():
    """Open a relayed connection; return the client's end and the server's end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        relay(outer, server.getsockname()[1])
        inner, _ = server.accept()
    for end in (client, inner):
        end.settimeout(20)
    with client, inner:
        yield client, inner


def received(end, size):
    content = bytearray()
    while len(content) < size and (piece := end.recv(1 << 16)):
        content += piece
    return bytes(content)


def test_bytes_pass_unchanged_in_both_directions_at_once(ends):
    client, server = ends
    inwards, outwards = random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)
    got = {}
    threads = [
        threading.Thread(target=client.sendall, args=(inwards,)),
        threading.Thread(target=server.sendall, args=(outwards,)),
        threading.Thread(target=lambda: got.update(client=received(client, SIZE))),
        threading.Thread(target=lambda: got.update(server=received(server, SIZE))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == {"server": inwards, "client": outwards}


def test_small_messages_are_not_delayed(ends):
    client, server = ends
    for number in range(200):
        client.sendall(bytes([number]))
        assert server.recv(10) == bytes([number])
        server.sendall(bytes([number]))
        assert client.recv(10) == bytes([number])


@pytest.mark.parametrize("first", [0, 1], ids=["client", "server"])
def test_end_of_one_side_ends_the_other_after_its_data(ends, first):
    ends[first].sendall(b"last words")
    ends[first].close()
    other = ends[1 - first]
    assert received(other, 100) == b"last words"


def test_closed_port_is_an_error():
    client, outer = socket.socketpair()
    with socket.socket() as sock, client, outer:
        sock.bind(("127.0.0.1", 0))  # bound, and not listening
        with pytest.raises(ConnectionRefusedError):
            relay(outer, sock.getsockname()[1])
