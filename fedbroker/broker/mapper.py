"""Erlang's port mapper for a private cluster, independent of the nodes: it survives the loss of any of them."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from pathlib import Path

from fedbroker.broker.ports import free_ports
from fedbroker.broker.setup import epmd_command, write_private
from fedbroker.broker.supervisor_process import SupervisorProcess
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerStartError

__all__ = ["PortMapper"]

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
            supervisor.hear(0.2)
        while supervisor.up and not deadline.passed():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                    return True
            except OSError:
                supervisor.hear(0.02)
        return False
