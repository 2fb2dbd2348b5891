"""Run compose/ with Docker: broker, three silos, Prometheus and a program, without TLS and with it; then remove it.

    python -m tests.compose               makes the images, runs the stack twice
    python -m tests.compose --no-build    runs images that were made before

The stack has a project name, volumes and passwords of its own and publishes no port, so that it disturbs no other one.
Where the official images cannot be pulled, scripts/compose-images.sh makes them. Without an engine or Compose, one line
says so, and nothing is run.
"""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.support.certificates import self_signed
from tests.support.wait import PROCESS_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
PROJECT = "fedbroker-try"
SILOS = ("ewr", "jfk", "lga")
SERVICES = ("broker", *SILOS, "prometheus")
IMAGES = ("silo", "coordinator")
PORT = {False: 5672, True: 5671}
CLOSED = (("broker", 4369), ("broker", 15692), ("broker", 25672), ("prometheus", 9090))
"""Ports that a silo must not reach: the broker's for its own nodes, and the servers of metrics."""

# Prints the ports of the arguments HOST:PORT that accept a connection.
CONNECT = """
import socket, sys
for host, port in (one.split(":") for one in sys.argv[1:]):
    try:
        socket.create_connection((host, int(port)), 3).close()
    except ConnectionRefusedError:
        continue
    print(f"{host}:{port}")
"""


class Failed(Exception):
    """The stack did something else than its documentation says; the message is for people."""


def main() -> int:
    """Run both stacks; return the exit code."""
    if (missing := without_engine()) is not None:
        print(f"compose: nothing was run: {missing}")
        return 0
    try:
        if "--no-build" not in sys.argv[1:]:
            build()
        for tls in (False, True):
            with stack(tls) as run:
                print(f"compose: {'with' if tls else 'without'} TLS: {computed(run, tls)}", flush=True)
    except Failed as error:
        print(f"compose: failed: {error}", file=sys.stderr)
        return 1
    return 0


def without_engine() -> str | None:
    """Return what this machine lacks; None if it can run the stack."""
    for command, lack in (
        (["docker", "info"], "no Docker engine answers"),
        (["docker", "compose", "version"], "no Compose 2"),
    ):
        try:
            done = subprocess.run(command, capture_output=True, timeout=PROCESS_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return lack
        if done.returncode:
            return lack
    return None


def build() -> None:
    """Make both images, and those that they are built on if these can neither be found nor pulled."""
    commands = [["scripts/compose-images.sh"]]
    commands += [
        ["docker", "build", "-q", "-f", f"compose/{one}.Dockerfile", "-t", f"fedbroker-{one}", "."] for one in IMAGES
    ]
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failed(f"{' '.join(command)}: {done.stderr[-2000:]}")


class Compose:
    """The command ``docker compose`` for a copy of the stack."""

    def __init__(self, directory: Path, files: tuple[str, ...]) -> None:
        self._command = ["docker", "compose", "-p", PROJECT]
        self._command += [word for file in files for word in ("-f", str(directory / "compose" / file))]

    def __call__(self, *arguments: str, seconds: float = 300) -> str:
        """Return the standard output of a command."""
        command = [*self._command, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Failed(f"{arguments[0]} took more than {seconds:g} s") from None
        if done.returncode:
            raise Failed(f"{' '.join(arguments)}: {(done.stderr or done.stdout)[-2000:]}")
        return done.stdout


@contextlib.contextmanager
def stack(tls: bool) -> Iterator[Compose]:
    """Start the services, and remove them with their networks, volumes and files."""
    with tempfile.TemporaryDirectory(prefix="fedbroker-compose-") as name:
        directory = Path(name)
        for one in ("compose", "config"):
            shutil.copytree(ROOT / one, directory / one, ignore=shutil.ignore_patterns("secrets"))
        subprocess.run([sys.executable, directory / "compose" / "passwords.py"], check=True)
        if tls:
            connect_by_tls(directory)
        (directory / "compose" / "try.yaml").write_text(
            yaml.safe_dump({"services": changes(tls)}).replace("'!reset'", "!reset")
        )
        run = Compose(directory, ("compose.yaml", "tls.yaml", "try.yaml") if tls else ("compose.yaml", "try.yaml"))
        try:
            run("up", "--detach", "--wait", *SERVICES)
            yield run
        except Failed as error:
            raise Failed(f"{error}\n{run('logs', '--tail', '10')}") from None
        finally:
            run("--profile", "*", "down", "--volumes", "--timeout", "20")


def changes(tls: bool) -> dict[str, dict[str, object]]:
    """Return what the copy has of its own: no published ports; by TLS, the authority at each client."""
    services: dict[str, dict[str, object]] = {"broker": {"ports": "!reset"}}
    if tls:
        services |= {one: {"secrets": ["ca.pem"]} for one in (*SILOS, "coordinator")}
    return services


def connect_by_tls(directory: Path) -> None:
    """Give the broker a certificate, from a key that only its owner may read, and the clients URLs with it."""
    certificate, key = self_signed(directory / "authority", days=1, name="broker")
    key.chmod(0o600)
    command = [sys.executable, directory / "compose" / "certificates.py", certificate, certificate, key, "broker"]
    subprocess.run(command, check=True)
    for name in (*SILOS, "coordinator"):
        path = directory / "compose" / "secrets" / name
        url = path.read_text().strip().replace("amqp:", "amqps:").replace(str(PORT[False]), str(PORT[True]))
        path.chmod(0o600)
        path.write_text(f"{url}?cafile=/run/secrets/ca.pem\n")
        path.chmod(0o444)


def computed(run: Compose, tls: bool) -> str:
    """Return the program's figure, after a look at what holds in a silo's container."""
    confinement = [line for line in checked(run) if line.startswith("ok       confinement")]
    if not confinement or "missing" in confinement[0]:
        raise Failed(f"the C++ runtime is not confined in a silo's container: {confinement}")
    reached(run, tls)
    wait_until(lambda: up(run) >= {*SILOS, "broker-metrics"}, 60)
    (said,) = [
        line for line in run("run", "--rm", "--use-aliases", "coordinator").splitlines() if line.startswith("mean")
    ]
    if said != f"mean delay: {mean():.2f} minutes":
        raise Failed(f"the program says {said!r}, the data {mean():.2f}")
    return said


def checked(run: Compose) -> list[str]:
    """Return the lines of ``fedbroker-silo check`` in a silo's container, which finds no problem."""
    return run("exec", "-T", "ewr", "fedbroker-silo", "check", "--config", "/etc/fedbroker/silo.toml").splitlines()


def reached(run: Compose, tls: bool) -> None:
    """Connect from a silo's container to the ports of its network."""
    ports = [f"broker:{PORT[tls]}", *(f"{host}:{port}" for host, port in CLOSED)]
    opened = run("exec", "-T", "ewr", "python", "-c", CONNECT, *ports).split()
    if opened != ports[:1]:
        raise Failed(f"a silo reaches {', '.join(opened)}")


def up(run: Compose) -> set[str]:
    """Return the hosts that Prometheus has asked, and that answered."""
    query = "http://prometheus-api:9090/api/v1/query?query=up"
    found = json.loads(run("exec", "-T", "prometheus", "wget", "-qO-", query))["data"]["result"]
    return {one["metric"]["instance"].split(":")[0] for one in found if one["value"][1] == "1"}


def mean() -> float:
    """Return the mean over the files that the silos have."""
    rows = [row["dep_delay"] for path in ROOT.glob("compose/data/*/flights.csv") for row in csv.DictReader(path.open())]
    delays = [float(row) for row in rows if row]
    return sum(delays) / len(delays)


if __name__ == "__main__":
    sys.exit(main())
