"""A private broker with RabbitMQ's management API, and an administrator's ``fedbroker admin`` commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from fedbroker.broker import PrivateBroker
from fedbroker.broker.setup import free_ports
from fedbroker.cli import app
from fedbroker.console import run
from fedbroker.credentials import broker_url
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
PLUGINS = ("rabbitmq_management",)


@dataclass(frozen=True)
class ManagementBroker:
    """A broker with its management API.

    Attributes:
        broker: the node.
        api: the API's URL with the administrator's password.
    """

    broker: PrivateBroker
    api: str

    @property
    def public(self) -> str:
        """URL of the broker without a login."""
        return f"amqp://127.0.0.1:{self.broker.port}/"

    def url(self, user: str, password: str, vhost: str) -> str:
        """Return the broker's URL with a login."""
        return f"amqp://{user}:{password}@127.0.0.1:{self.broker.port}/{quote(vhost, safe='')}"


@contextmanager
def management_broker(*plugins: str, **extra_conf: str) -> Iterator[ManagementBroker]:
    """Run a broker with the management API within the block."""
    (port,) = free_ports(1)
    conf = {"management.tcp.port": str(port), "management.tcp.ip": "127.0.0.1"}
    with PrivateBroker(plugins=(*PLUGINS, *plugins), extra_conf=conf | extra_conf) as broker:
        login = broker.url.removeprefix("amqp://").rpartition("@")[0]
        yield ManagementBroker(broker, f"http://{login}@127.0.0.1:{port}")


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without fedbroker's own variables."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    return {**ours, "PYTHONPATH": f"{ROOT}:{ROOT / 'workers'}", **variables}


@dataclass(frozen=True)
class Ran:
    """Result of a command."""

    code: int
    out: str
    error: str


@dataclass(frozen=True)
class Admin:
    """An administrator of a broker, whose commands run in this process.

    Attributes:
        directory: parent of the written files.
        variables: additional environment variables.
    """

    directory: Path
    variables: Mapping[str, str]

    @property
    def out(self) -> Path:
        """Return the administrator's directory."""
        return self.directory / "fedbroker-admin"

    def run(self, *arguments: str) -> Ran:
        """Run ``fedbroker admin ARGUMENTS``; return its result."""
        out, error = io.StringIO(), io.StringIO()
        command = ["admin", *arguments, "--out", str(self.out)]
        patched = mock.patch.dict(os.environ, environment(**self.variables), clear=True)
        code = 0
        with patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                run(lambda: app(command, exit_on_error=False, print_error=False, result_action="return_value"))
            except SystemExit as ended:
                code = int(ended.code or 0)
        return Ran(code, out.getvalue(), error.getvalue())

    def done(self, *arguments: str) -> str:
        """Run a command that must succeed; return its output."""
        ran = self.run(*arguments)
        assert ran.code == 0, ran.error
        return ran.out

    def refused(self, *arguments: str) -> str:
        """Run a command that must fail; return its error, one line."""
        ran = self.run(*arguments)
        assert ran.code in (2, 3), ran
        assert ran.error.count("\n") == 1
        return ran.error

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the rows of ``fedbroker admin list``."""
        rows: list[dict[str, Any]] = json.loads(self.done("list", "--json", *arguments))
        return rows

    def settings(self, cohort: str, silo: str = "ewr") -> Path:
        """Return the path of a silo's ``silo.toml``."""
        return self.out / "silos" / cohort / silo / "silo.toml"

    def silo_url(self, cohort: str, silo: str = "ewr") -> str:
        """Return the broker's URL in a silo's settings, a secret."""
        url: str = tomllib.loads(self.settings(cohort, silo).read_text())["silo"]["broker"]
        return url

    def coordinator_url(self, name: str = "coordinator") -> str:
        """Return the coordinator's URL."""
        url = broker_url({"FEDBROKER_URL_FILE": str(self.out / "coordinators" / name / "broker.url")})
        assert url is not None
        return url


@contextmanager
def silo_process(
    settings: Path, *options: str, modules: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[SiloProcess]:
    """Run ``fedbroker-silo run`` within the block, ready at its start.

    Args:
        settings: its ``silo.toml``.
        options: further options.
        modules: a directory that is added to its search path.
        variables: additional environment variables.
    """
    silo = SiloProcess(settings, *options, modules=modules, variables=variables)
    try:
        silo.until_ready()
        yield silo
    finally:
        silo.end()


class SiloProcess:
    """A silo's process, with a working directory that is not its settings' directory."""

    def __init__(
        self,
        settings: Path,
        *options: str,
        modules: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.log = settings.parent / "log"
        self._ready = settings.parent / "ready"
        whole = environment(**(variables or {}))
        if modules is not None:
            whole["PYTHONPATH"] = f"{modules}:{whole['PYTHONPATH']}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fedbroker_worker", "run", "--config", str(settings)),
                    *("--ready-file", str(self._ready), *options),
                ],
                env=whole,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def until_ready(self) -> None:
        """Wait until the silo is in its cohort."""
        wait_until(lambda: self._ready.exists() or self.process.poll() is not None, 30, "the silo is ready")
        assert self.process.poll() is None, self.log.read_text()

    def said(self, event: str, words: str = "") -> bool:
        """Return whether the log has such an event."""
        return any(f'"event": "{event}"' in line and words in line for line in self.log.read_text().splitlines())

    def end(self) -> None:
        """End the process, in any state."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
