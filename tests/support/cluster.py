"""A private cluster of RabbitMQ nodes, to try the loss of a node: three survive the loss of any one."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from fedbroker.broker.node import PrivateBroker
from fedbroker.broker.setup import ClusterIdentity, Credentials, epmd_command, free_ports
from fedbroker.broker.supervisor_process import SupervisorProcess
from fedbroker.credentials import write_private
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerStartError, UsageError
from tests.support.wait import wait_until

__all__ = ["ClusterNode", "PrivateCluster", "is_complete", "killed_node", "node_at_port"]

BACK = 60.0

_CTL_TIMEOUT = 60.0  # seconds: joining a cluster starts the node's applications again

_START_TIMEOUT = 10.0
_ATTEMPTS = 3  # as in node.py


class PortMapper:
    """A running port mapper with a supervisor of its own: it ends with ``close`` or with this process.

    Attributes:
        port: its port on the loopback.

    Raises:
        BrokerStartError: Erlang is not installed, or the port mapper did not start.
    """

    port: int

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="fedbroker-broker-"))
        self._supervisor: SupervisorProcess | None = None
        try:
            self._supervisor = SupervisorProcess(self._directory, remove=True)
            for _ in range(_ATTEMPTS):  # another process may take the free port first
                (self.port,) = free_ports(1)
                if self._started(self._supervisor):
                    return
            raise BrokerStartError("Erlang's port mapper did not start", hint="`apt-get install erlang-base`")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, and remove its directory."""
        if self._supervisor is not None:
            self._supervisor.close(orderly=False)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _started(self, supervisor: SupervisorProcess) -> bool:
        orders = {
            "server": epmd_command(self.port),
            "epmd": None,
            "env": {"HOME": str(self._directory), "TMPDIR": str(self._directory)},
            "output": str(self._directory / "output.txt"),
        }
        write_private(self._directory / "supervisor.json", json.dumps(orders))
        supervisor.order("start")
        deadline = Deadline.after(_START_TIMEOUT)
        while not deadline.passed() and supervisor.alive and not supervisor.up:
            supervisor.read_reports(0.2)
        while supervisor.up and not deadline.passed():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                    return True
            except OSError:
                supervisor.read_reports(0.02)
        return False


class ClusterNode:
    """One node of a private cluster; its data lives as long as the cluster.

    Attributes:
        name: its name in RabbitMQ.
    """

    def __init__(self, name: str, broker: PrivateBroker) -> None:
        self.name = name
        self._broker = broker

    def __repr__(self) -> str:
        return f"ClusterNode({self.name!r}, {'running' if self.running else 'not running'})"

    @property
    def port(self) -> int:
        """Return its AMQP port on 127.0.0.1, which a restart keeps."""
        return self._broker.port

    @property
    def url(self) -> str:
        """Return the URL of this node alone: a secret."""
        return self._broker.url

    @property
    def running(self) -> bool:
        """Return whether it is up, according to its supervisor."""
        return self._broker.running

    def kill(self) -> None:
        """Kill it (SIGKILL), as a power cut would.

        Raises:
            UsageError: it is not running.
        """
        self._broker.kill()

    def stop(self) -> None:
        """Stop it gracefully: its clients and the other nodes are notified.

        Raises:
            UsageError: it is not running.
        """
        self._broker.halt()

    def start(self) -> None:
        """Restart it with its data and its port; return when it accepts AMQP connections as part of the cluster.

        Raises:
            BrokerStartError: it did not come up in time.
        """
        self._broker.start()

    def ctl(self, *arguments: str) -> str:
        """Return the output of ``rabbitmqctl --quiet ARGUMENTS`` for this node.

        Raises:
            subprocess.CalledProcessError: the command failed; its ``stderr`` has the reason.
        """
        return self._broker.ctl(*arguments, timeout=_CTL_TIMEOUT)


class PrivateCluster:
    """RabbitMQ nodes joined to a private cluster, each on a port of the loopback; starting takes some 12 s.

    Usable with ``with``. All of it ends with this process, even if the process is killed.

    Args:
        size: number of nodes.
        extra_conf: lines for each node's ``rabbitmq.conf``; they override the defaults.
        start_timeout: seconds that the start of a node may take.
    """

    def __init__(
        self, size: int = 3, *, extra_conf: Mapping[str, str] | None = None, start_timeout: float = 60.0
    ) -> None:
        self._size = size
        self._options = {"extra_conf": extra_conf, "start_timeout": start_timeout}
        self._mapper: PortMapper | None = None
        self._brokers: list[PrivateBroker] = []
        self._nodes: tuple[ClusterNode, ...] = ()

    @property
    def nodes(self) -> tuple[ClusterNode, ...]:
        """Return its nodes; the others have joined the first.

        Raises:
            UsageError: it is not started.
        """
        if not self._nodes:
            raise UsageError("the private cluster is not started", hint="use it in a with statement")
        return self._nodes

    @property
    def url(self) -> str:
        """Return ``amqp://user:password@127.0.0.1:port,127.0.0.1:port,127.0.0.1:port/``: a secret.

        Raises:
            UsageError: it is not started.
        """
        login = self.nodes[0].url.rpartition("@")[0]
        return f"{login}@{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/"

    def start(self) -> None:
        """Start the nodes and join them.

        Raises:
            BrokerStartError: no server is installed, or a node did not start in time or did not join.
        """
        if self._nodes:
            return
        try:
            self._mapper = PortMapper()
            cluster = ClusterIdentity(
                secrets.token_hex(16), Credentials("fedbroker", secrets.token_hex(16)), self._mapper.port
            )
            names = [f"fedbroker{number}@localhost" for number in range(1, self._size + 1)]
            self._brokers = [PrivateBroker.cluster_member(name, cluster, self._options) for name in names]
            _at_once(broker.start for broker in self._brokers)
            first, *others = nodes = [ClusterNode(*each) for each in zip(names, self._brokers, strict=True)]
            for node in others:  # one after another: each changes the list of members
                _join(node, first)
            self._nodes = tuple(nodes)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all nodes and remove their data; takes a second or two."""
        brokers, self._brokers, self._nodes = self._brokers, [], ()
        mapper, self._mapper = self._mapper, None
        try:
            _at_once(broker.stop for broker in brokers)
        finally:
            if mapper is not None:
                mapper.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _at_once(calls: Iterable[Callable[[], None]]) -> None:
    """Make all calls in threads; return when all have ended, and raise the first error."""
    todo = list(calls)
    with ThreadPoolExecutor(max(1, len(todo))) as pool:
        done = [pool.submit(call) for call in todo]
        wait(done)
    for each in done:
        each.result()


def _join(node: ClusterNode, first: ClusterNode) -> None:
    try:
        node.ctl("stop_app")
        node.ctl("join_cluster", first.name)
        node.ctl("start_app")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = error.stderr or error.stdout or str(error)
        raise BrokerStartError(f"{node.name} did not join the private cluster: {str(said).strip()[-300:]}") from None


def node_at_port(cluster: PrivateCluster, port: int) -> ClusterNode:
    """Return the node that listens on a port."""
    (node,) = [node for node in cluster.nodes if node.port == port]
    return node


def is_complete(cluster: PrivateCluster, vhost: str = "/") -> bool:
    """Return whether every replica of every replicated queue is running, so that any one node may be killed."""
    if not all(node.running for node in cluster.nodes):
        return False
    queues = json.loads(
        cluster.nodes[0].ctl("list_queues", "-p", vhost, "type", "members", "online", "--formatter", "json")
    )
    return all(len(queue["online"]) == len(queue["members"]) for queue in queues if queue["type"] == "quorum")


@contextmanager
def killed_node(cluster: PrivateCluster, node: ClusterNode) -> Iterator[None]:
    """Keep a node dead within the block; return when it is fully back."""
    node.kill()
    try:
        yield
    finally:
        node.start()
        wait_until(lambda: is_complete(cluster), BACK, "a whole cluster")
