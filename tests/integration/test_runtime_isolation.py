"""The network of a graph in the runtime: with either kind of confinement, not even the host's loopback is reachable."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedbroker.errors import ComputationFailed
from fedbroker.runtime import Runtime
from fedbroker.runtime.process import installed_binary
from fedbroker.runtime.protos import executor_pb2
from tests.support.shell_paths import SHELL_PATHS

# Reads of Google's object store use the proxy of the environment: here, our listener.
WRAPPER = """#!/bin/sh
export https_proxy=http://127.0.0.1:{port} http_proxy=http://127.0.0.1:{port} NO_GCE_CHECK=true
export GCS_RETRY_CONFIG_MAX_RETRIES=0 GCS_REQUEST_CONNECTION_TIMEOUT_SECS=5
exec {binary} "$@"
"""


class Listener:
    """A listener on the host's loopback that closes each connection and records the received bytes."""

    def __init__(self):
        self.heard = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(1024))

    def close(self):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def listener():
    one = Listener()
    yield one
    one.close()


@pytest.fixture(scope="module")
def reads_the_network():
    comp = tff.tensorflow.computation(lambda: tf.io.read_file("gs://bucket/object"))
    return executor_pb2.Value(computation=tff.framework.serialize_computation(comp)).SerializeToString()


@pytest.mark.parametrize(
    ("isolation", "confinement", "reached"),
    [
        ("namespace", "best-effort", False),
        ("namespace", "off", False),
        ("none", "best-effort", False),
        ("none", "off", True),
    ],
)
async def test_graph_cannot_connect_to_the_hosts_loopback(
    listener, reads_the_network, tmp_path, isolation, confinement, reached
):
    wrapper = tmp_path / "worker"
    wrapper.write_text(WRAPPER.format(port=listener.port, binary=installed_binary()))
    wrapper.chmod(0o700)
    runtime = Runtime(isolation=isolation, binary=wrapper, confinement=confinement, readable=SHELL_PATHS)
    await runtime.start()
    executor = await runtime.executor(0)
    with pytest.raises(ComputationFailed, match="HTTP request") as caught:
        async with asyncio.timeout(60):
            await executor.compute(await executor.call(await executor.value(reads_the_network), None))
    await runtime.close()
    assert bool(listener.heard) == reached
    if reached:
        assert listener.heard[0].startswith(b"CONNECT storage.googleapis.com:443")
    else:
        assert f"127.0.0.1 port {listener.port}" in caught.value.detail  # the graph did try
