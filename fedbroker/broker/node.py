"""A private RabbitMQ node as an object: start, stop, kill.

A supervisor process (``supervisor.py``) runs the node, and removes everything when this process ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fedbroker.broker.directories import link_to, make_temporary, remove_leftovers, usable
from fedbroker.broker.setup import (
    NODE,
    ClusterIdentity,
    Credentials,
    NodeFiles,
    Ports,
    free_ports,
    is_free,
    speaks_amqp,
)
from fedbroker.broker.supervisor_process import SupervisorProcess
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerStartError, UsageError
from fedbroker.text import seconds_text

__all__ = ["PrivateBroker"]

_ATTEMPTS: Final = 3
"""Attempts to start: another process may take a port between its choice and the node's start."""
_HINT = "check extra_conf and the disk's free space, or `apt-get install --reinstall rabbitmq-server`"


class PrivateBroker:
    """A private RabbitMQ node from the installed server: own ports on the loopback, own user, own directory.

    Usable with ``with`` and with ``async with``. All of it ends with this process, even if the process is killed. The
    server is found where Debian, Ubuntu, the RPMs, the official image and the generic archive put it; the environment
    variable ``FEDBROKER_RABBITMQ_HOME`` names another place.

    Args:
        port: AMQP port; a free port if None. ``kill`` and ``start`` keep it.
        directory: the directory of its data, log and credentials, kept for the next node; if None, a temporary
            directory that ``stop`` removes.
        extra_conf: lines for ``rabbitmq.conf``, such as ``{"max_message_size": "16777216"}``; they override the
            defaults.
        plugins: names of plugins to enable, of those that come with the server.
        start_timeout: seconds that a start may take.
    """

    def __init__(
        self,
        port: int | None = None,
        directory: str | os.PathLike[str] | None = None,
        *,
        extra_conf: Mapping[str, str] | None = None,
        plugins: Sequence[str] = (),
        start_timeout: float = 30.0,
    ) -> None:
        self._given_port = port
        self._given_directory = Path(directory) if directory is not None else None
        self._extra_conf = dict(extra_conf or {})
        self._plugins = tuple(plugins)
        self._start_timeout = start_timeout
        self._directory: Path | None = None
        self._link: Path | None = None
        self._files: NodeFiles | None = None
        self._ports: Ports | None = None
        self._supervisor: SupervisorProcess | None = None
        self._abandoned = threading.Event()
        self._node = NODE
        self._cluster: ClusterIdentity | None = None

    @classmethod
    def cluster_member(cls, node: str, cluster: ClusterIdentity, options: Mapping[str, Any]) -> Self:
        """Return a node to join a cluster, with that name and the values that its cluster shares.

        Args:
            node: the node's name in RabbitMQ.
            cluster: the values that the nodes share.
            options: arguments of the constructor.
        """
        member = cls(**options)
        member._node, member._cluster = node, cluster
        return member

    def __repr__(self) -> str:
        port = self._ports.amqp if self._ports else self._given_port
        return f"PrivateBroker(port={port}, {'running' if self.running else 'not running'})"

    @property
    def port(self) -> int:
        """Return its AMQP port on 127.0.0.1.

        Raises:
            UsageError: it was never started.
        """
        return self._started()[1].amqp

    @property
    def url(self) -> str:
        """Return ``amqp://user:password@127.0.0.1:port/``: a secret.

        Raises:
            UsageError: it was never started.
        """
        files, ports = self._started()
        return f"amqp://{files.credentials.user}:{files.credentials.password}@127.0.0.1:{ports.amqp}/"

    @property
    def directory(self) -> Path:
        """Return the directory of its data, log and configuration.

        Raises:
            UsageError: it was never started.
        """
        files, _ = self._started()
        return self._directory or files.directory

    @property
    def running(self) -> bool:
        """Return whether the node is up, according to its supervisor."""
        if self._supervisor is None:
            return False
        while self._supervisor.read_reports(0.0):
            pass
        return self._supervisor.up

    def start(self) -> None:
        """Start the node and return once it accepts AMQP connections; do nothing if it is up already.

        Raises:
            BrokerStartError: no server is installed, the port or the directory is in use, or the node did not start in
                time; contains the last lines of its log.
            ConfigError: a plugin or a setting is invalid.
        """
        if self.running:
            return
        deadline = Deadline.after(self._start_timeout)
        try:
            files = self._prepared()
            for _ in range(_ATTEMPTS):
                self._ports = self._choose_ports()
                files.write(self._ports)
                if self._boot(files, self._ports, deadline):
                    return
                if not files.lost_a_port():
                    break
            slow = f" within {seconds_text(self._start_timeout)}" if deadline.passed() else ""
            raise BrokerStartError(f"the private broker did not start{slow}: {files.failure_reason()}", hint=_HINT)
        except BaseException:
            self._end(orderly=False)
            raise

    def stop(self) -> None:
        """Stop the node gracefully (clients are notified) and remove a temporary directory; takes a second."""
        self._end(orderly=True)

    def kill(self) -> None:
        """Kill the node (SIGKILL), as a power cut would; ``start`` restarts it with the same data and port.

        Raises:
            UsageError: it is not running.
        """
        if self._supervisor is None or not self.running:
            raise UsageError("the private broker is not running", hint="call start() first")
        self._supervisor.end_vm("kill")

    def halt(self) -> None:
        """Stop the node gracefully, and keep its data even in a temporary directory, for ``start``.

        Raises:
            UsageError: it is not running.
        """
        if self._supervisor is None or not self.running:
            raise UsageError("the private broker is not running", hint="call start() first")
        self._supervisor.end_vm("halt")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the node ends by itself, at most for ``seconds``; return whether it did."""
        deadline = Deadline.after(seconds) if seconds is not None else None
        while self._supervisor is not None and self.running:
            if deadline is not None and deadline.passed():
                return False
            self._supervisor.read_reports(deadline.left() if deadline is not None else None)
        return True

    def ctl(self, *arguments: str, timeout: float = 30.0) -> str:
        """Return the output of ``rabbitmqctl --quiet ARGUMENTS`` for this node; takes about a second.

        Raises:
            UsageError: it was never started.
            subprocess.CalledProcessError: the command failed; its ``stderr`` has the reason.
        """
        files, ports = self._started()
        command = [str(files.home / "sbin" / "rabbitmqctl"), "--quiet", *arguments]
        environment = files.environment(ports)
        done = subprocess.run(command, env=environment, timeout=timeout, capture_output=True, text=True, check=True)
        return done.stdout

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self._abandoned.clear()
        starting = asyncio.create_task(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._abandoned.set()  # the thread sees it, stops the node and ends
            await asyncio.wait([starting])
            if not starting.cancelled() and starting.exception() is None:
                await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    def _started(self) -> tuple[NodeFiles, Ports]:
        if self._files is None or self._ports is None:
            raise UsageError("the private broker is not started", hint="call start(), or use it in a with statement")
        return self._files, self._ports

    def _prepared(self) -> NodeFiles:
        """Return the node's files, whose directory a supervisor has locked."""
        if self._files is None:
            remove_leftovers()
            temporary = self._given_directory is None
            self._directory = make_temporary() if temporary else self._owned_directory()
            self._supervisor = SupervisorProcess(self._directory, remove=temporary)
            if not usable(self._directory):
                self._link = link_to(self._directory)
            cluster = self._cluster
            credentials = cluster.credentials if cluster else Credentials.of(self._directory)
            path = self._link or self._directory
            files = NodeFiles(path, credentials, self._extra_conf, self._plugins, self._node, cluster)
            files.prepare()
            self._files = files
        return self._files

    def _end(self, *, orderly: bool) -> None:
        supervisor, self._supervisor = self._supervisor, None
        directory, self._directory = self._directory, None
        link, self._link = self._link, None
        self._files = None
        if supervisor is not None:
            supervisor.close(orderly=orderly)
        if directory is not None and self._given_directory is None:
            shutil.rmtree(directory, ignore_errors=True)  # for a supervisor that was killed
        if link is not None:
            shutil.rmtree(link.parent, ignore_errors=True)

    def _owned_directory(self) -> Path:
        assert self._given_directory is not None
        try:
            self._given_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BrokerStartError(f"the directory cannot be used: {error}", hint="give another directory") from error
        return self._given_directory.resolve()

    def _choose_ports(self) -> Ports:
        """Choose free ports, the earlier AMQP port if possible: clients reconnect to it."""
        amqp, distribution, epmd = free_ports(3)
        earlier = self._ports.amqp if self._ports is not None else None
        if self._given_port is not None and not is_free(self._given_port):
            raise BrokerStartError(f"port {self._given_port} is in use", hint="give another port, or none")
        if earlier is not None and is_free(earlier):
            amqp = earlier
        return Ports(self._given_port or amqp, distribution, self._cluster.epmd if self._cluster else epmd)

    def _boot(self, files: NodeFiles, ports: Ports, deadline: Deadline) -> bool:
        """Return whether the node accepts connections; False if it ended by itself or time ran out."""
        if self._supervisor is None or not self._supervisor.alive:
            self._supervisor = SupervisorProcess(files.directory, remove=self._given_directory is None)
        supervisor = self._supervisor
        files.output.unlink(missing_ok=True)
        supervisor.order("start")
        while not deadline.passed() and supervisor.alive and not supervisor.up:
            supervisor.read_reports(0.2)
        while supervisor.up and not deadline.passed():
            if speaks_amqp(ports.amqp):
                return True
            supervisor.read_reports(0.05)
            if self._abandoned.is_set():
                raise BrokerStartError("the start was abandoned")
        return False
