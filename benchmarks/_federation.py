"""Flower as its users run it: a SuperLink and SuperNodes as processes on this machine, and an app that they run."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent / "_flower"
BIN = Path(__file__).parents[1] / ".cache" / "flower" / "bin"
STARTED_SECONDS = 60.0
RUN_SECONDS = 600.0
STOP_SECONDS = 10.0


class Federation:
    """A running SuperLink with its SuperNodes.

    Args:
        directory: for their logs and results.
        port: of the SuperLink.
        nodes: number of SuperNodes.
        app: directory of the app that they run.
    """

    def __init__(self, directory: Path, port: int, nodes: int, app: Path) -> None:
        self._app = app
        self._directory = directory
        self._port = port
        self._nodes = nodes
        self.pids: list[int] = []

    def rounds(self, numbers: int, rounds: int) -> list[float]:
        """Run rounds with a model of ``numbers`` float32 after one to warm up; return what the app writes."""
        result = self._directory / f"{secrets.token_hex(4)}.json"
        config = f"numbers={numbers} nodes={self._nodes} rounds={rounds} result='{result}'"
        command = [str(BIN / "flwr"), "run", str(self._app), "bench", "--run-config", config]
        done = subprocess.run(command, env=environment(self._directory), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"flwr run: {done.stdout}{done.stderr}")
        end = time.monotonic() + RUN_SECONDS
        while not result.exists() or not (text := result.read_text()):
            if time.monotonic() > end:
                raise RuntimeError(f"Flower's run does not end; see {self._directory}")
            time.sleep(0.2)
        return [float(one) for one in json.loads(text)]


@contextlib.contextmanager
def federation(nodes: int, app: Path = HERE) -> Iterator[Federation]:
    """Install Flower, start it, and end all of it."""
    subprocess.run([str(HERE / "setup.sh")], check=True)
    with tempfile.TemporaryDirectory(prefix="flower-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        link, *own = free_ports(1 + nodes)
        (directory / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
        )
        there = Federation(directory, link, nodes, app)
        start = ["flower-superlink", "--insecure", "--port", str(link), "--disable-runtime-dependency-installation"]
        there.pids.append(stack.enter_context(running(start, directory)))
        reachable(link)
        for port in own:
            start = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", "--port", str(port)]
            there.pids.append(stack.enter_context(running(start, directory)))
        yield there


@contextlib.contextmanager
def running(command: list[str], directory: Path) -> Iterator[int]:
    """Run one of Flower's programs in a process group of its own that ends with the block; yield its process id."""
    with (directory / f"{command[0]}-{command[-1]}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=environment(directory),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def environment(directory: Path) -> dict[str, str]:
    """Return an environment with Flower's programs on the path, its files in ``directory``, and telemetry off."""
    own = {"FLWR_HOME": str(directory), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, **own, "PATH": f"{BIN}:{os.environ['PATH']}"}


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def reachable(port: int) -> None:
    """Wait until a server listens on the port.

    Raises:
        RuntimeError: no server did within a minute.
    """
    end = time.monotonic() + STARTED_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError("Flower's SuperLink did not start")
