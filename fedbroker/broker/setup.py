"""Write a private node's directory: credentials, configuration, environment."""

from __future__ import annotations

import json
import random
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedbroker.broker.server import find_erlang, find_server, link_server
from fedbroker.credentials import write_private
from fedbroker.errors import ConfigError

__all__ = [
    "ClusterIdentity",
    "Credentials",
    "NodeFiles",
    "Ports",
    "epmd_command",
    "free_ports",
    "is_free",
    "speaks_amqp",
]

NODE = "fedbroker@localhost"

_ERROR = re.compile(r"^.*?\[error\] <[\d.]+>(.*)$", flags=re.MULTILINE)
_TIMESTAMP = re.compile(r"^\S+ \S+ \[\w+\] <[\d.]+>")
_CRASH_REPORT = re.compile(r"^\s*(supervisor|crasher):")
_EMPTY = re.compile(r"^\W*$|^BOOT FAILED$")
_MAX_LINES = 6  # of an error: later ones repeat it as a crash report

_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_MIN_PORT = 10_240  # below it are the ports of well-known services
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
    candidates = range(_MIN_PORT, max(_first_outgoing_port(), _MIN_PORT + 10_000))
    ports: list[int] = []
    for port in random.sample(candidates, k=len(candidates)):
        if is_free(port):
            ports.append(port)
        if len(ports) == count:
            break
    return tuple(ports)


def _first_outgoing_port() -> int:
    try:
        return int(_PORT_RANGE.read_text().split()[0])
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


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a node, on the loopback only."""

    amqp: int
    distribution: int
    epmd: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """The node's only user."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"

    @classmethod
    def of(cls, directory: Path) -> Credentials:
        """Return a directory's credentials, which its database knows; create them for a new directory."""
        file = directory / "credentials.json"
        if file.exists():
            return cls(**json.loads(file.read_text()))
        new = cls("fedbroker", secrets.token_hex(16))
        write_private(file, json.dumps({"user": new.user, "password": new.password}))
        return new


@dataclass(frozen=True, slots=True)
class ClusterIdentity:
    """The values that the nodes of one cluster share.

    Attributes:
        cookie: the secret by which they authenticate each other.
        credentials: the cluster's only user.
        epmd: port of the port mapper that serves them all; no node runs it.
    """

    cookie: str = field(repr=False)
    credentials: Credentials
    epmd: int


@dataclass(frozen=True)
class NodeFiles:
    """The files of one node in its directory, readable by its owner only."""

    directory: Path
    credentials: Credentials
    extra_conf: Mapping[str, str]
    plugins: Sequence[str]
    node: str = NODE
    cluster: ClusterIdentity | None = None

    @property
    def home(self) -> Path:
        """Return the directory with links to the installed server."""
        return self.directory / "server"

    @property
    def output(self) -> Path:
        """Return the file with the VM's output."""
        return self.directory / "output.txt"

    @property
    def log(self) -> Path:
        """Return RabbitMQ's own log file."""
        return self.directory / "log" / f"{self.node}.log"

    def failure_reason(self) -> str:
        """Return why the last start failed, from the node's own output, on one line."""
        supervisor, output, log = (_read(file) for file in (self.directory / "supervisor.txt", self.output, self.log))
        return _error_lines(supervisor, output, log.rpartition("Starting RabbitMQ")[2])

    def lost_a_port(self) -> bool:
        """Return whether another process listened on one of its ports first."""
        reason = self.failure_reason().lower()
        return "eaddrinuse" in reason or "address already in use" in reason

    def prepare(self) -> None:
        """Write the files that do not depend on the ports.

        Raises:
            BrokerStartError: no server is installed.
            ConfigError: a plugin is unknown.
        """
        link_server(find_server(), self.home, self.plugins)
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            write_private(cookie, self.cluster.cookie if self.cluster else secrets.token_hex(16), mode=0o400)
        for name in ("mnesia", "log", "conf"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        write_private(self.directory / "env.conf", "")
        write_private(self.directory / "plugins", f"[{','.join(self.plugins)}].\n")

    def write(self, ports: Ports) -> None:
        """Write the files that depend on the ports: the node's configuration and the supervisor's orders."""
        settings = self._settings(ports) | dict(self.extra_conf)
        for key, value in settings.items():
            if "\n" in f"{key}{value}":
                raise ConfigError(f"line break in the RabbitMQ setting {key.splitlines()[0]!r}")
        write_private(self.directory / "rabbitmq.conf", "".join(f"{k} = {v}\n" for k, v in settings.items()))
        orders = {
            "server": [str(self.home / "sbin" / "rabbitmq-server")],
            "epmd": None if self.cluster else epmd_command(ports.epmd),
            "env": self.environment(ports),
            "output": str(self.output),
        }
        write_private(self.directory / "supervisor.json", json.dumps(orders))

    def _settings(self, ports: Ports) -> dict[str, str]:
        return {
            "listeners.tcp.local": f"127.0.0.1:{ports.amqp}",
            "default_user": self.credentials.user,
            "default_pass": self.credentials.password,
            "loopback_users": "none",
            "log.console": "false",
            "log.file.level": "info",
            "vm_memory_high_watermark.relative": "0.5",
            "disk_free_limit.absolute": "100MB",
            "frame_max": "2097152",  # large blobs travel faster than in frames of 128 KiB, the default
        }

    def environment(self, ports: Ports) -> dict[str, str]:
        """Return a clean environment for the node and for its command-line tools."""
        erl, _ = find_erlang()
        directory = self.directory
        return {
            "PATH": f"{erl.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "TMPDIR": str(directory),
            "ERL_EPMD_PORT": str(ports.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(ports.amqp),
            "RABBITMQ_DIST_PORT": str(ports.distribution),
            "RABBITMQ_SCRIPTS_DIR": str(self.home / "sbin"),
            "RABBITMQ_PLUGINS_DIR": str(self.home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "env.conf"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "conf"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(directory / "feature_flags"),
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        }


def epmd_command(port: int) -> list[str]:
    """Return the command that runs Erlang's port mapper, on the loopback."""
    return [str(find_erlang()[1]), "-port", str(port), "-address", "127.0.0.1"]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _error_lines(supervisor: str, output: str, log: str) -> str:
    """Return the relevant lines from the output of supervisor, VM and RabbitMQ, joined to one line."""
    for text in (supervisor, output, log):
        if errors := _errors(text):
            return " | ".join(errors[:_MAX_LINES])
    for text in (supervisor, output, log):
        if lines := _meaningful(text.splitlines()):
            return " | ".join(lines[-3:])
    return "it wrote nothing"


def _errors(text: str) -> list[str]:
    lines: list[str] = []
    for line in _ERROR.findall(text):
        if _CRASH_REPORT.match(line):
            break
        lines.append(line)
    return list(dict.fromkeys(_meaningful(lines)))


def _meaningful(lines: list[str]) -> list[str]:
    bare = [_TIMESTAMP.sub("", line).strip(" -") for line in lines]
    return [line for line in bare if not _EMPTY.match(line)]
