"""Find the installed RabbitMQ server and make a copy of links that holds only the needed plugins.

Half of a node's boot is a scan of all plugins, so the copy halves it.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fedbroker.errors import BrokerStartError, ConfigError

__all__ = ["find_erlang", "find_server", "link_server"]

HOME_VARIABLE = "FEDBROKER_RABBITMQ_HOME"
_HINT = f"`apt-get install rabbitmq-server`, or set {HOME_VARIABLE} to the directory that holds its sbin/ and plugins/"
_LOCATIONS = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*",  # Debian, Ubuntu, RPM
    "/usr/local/lib/rabbitmq/lib/rabbitmq_server-*",
    "/opt/rabbitmq",  # the official container image
    "/opt/rabbitmq_server-*",  # the generic archive
)
_CORE_PLUGINS = (
    "rabbit",
    "rabbit_common",
    "rabbitmq_prelaunch",
    "ra",
    "aten",
    "gen_batch_server",
    "osiris",
    "seshat",
    "ranch",
    "recon",
    "credentials_obfuscation",
    "cuttlefish",
    "getopt",
    "jsx",
    "observer_cli",
    "stdout_formatter",
    "syslog",
    "sysmon_handler",
    "systemd",
    "enough",
    "base64url",
    "amqp_client",
    "amqp10_common",
)


def find_server() -> Path:
    """Return the home directory of the installed server with the highest version (it holds ``sbin`` and ``plugins``).

    The environment variable ``FEDBROKER_RABBITMQ_HOME`` takes precedence.

    Raises:
        BrokerStartError: no server is installed.
    """
    if chosen := os.environ.get(HOME_VARIABLE):
        if _is_home(Path(chosen)):
            return Path(chosen).resolve()
        raise BrokerStartError(f"the directory in {HOME_VARIABLE} holds no RabbitMQ server", hint=_HINT)
    homes = [home for home in _candidates() if _is_home(home)]
    if not homes:
        raise BrokerStartError("no RabbitMQ server is installed", hint=_HINT)
    return max(homes, key=lambda home: tuple(int(part) for part in re.findall(r"\d+", home.name)))


def _candidates() -> Iterator[Path]:
    for pattern in _LOCATIONS:
        yield from Path("/").glob(pattern[1:])
    if script := shutil.which("rabbitmq-server"):
        yield Path(script).resolve().parent.parent


def _is_home(home: Path) -> bool:
    return (home / "sbin" / "rabbitmq-server").is_file() and (home / "plugins").is_dir()


def find_erlang() -> tuple[Path, Path]:
    """Return the paths of the programs ``erl`` and ``epmd``.

    Raises:
        BrokerStartError: one of them is missing.
    """
    erl = shutil.which("erl")
    if erl is None:
        raise BrokerStartError("Erlang (`erl`) is not installed", hint="`apt-get install erlang-base rabbitmq-server`")
    for epmd in (shutil.which("epmd"), Path(erl).resolve().with_name("epmd")):
        if epmd is not None and Path(epmd).is_file():
            return Path(erl), Path(epmd)
    raise BrokerStartError("Erlang's port mapper (`epmd`) is not installed", hint="`apt-get install erlang-base`")


def link_server(server: Path, home: Path, plugins: Sequence[str]) -> None:
    """Fill ``home`` with links to the server's scripts and to the needed plugins, including their dependencies.

    Raises:
        ConfigError: the server has no plugin with that name.
    """
    shutil.rmtree(home, ignore_errors=True)
    (home / "sbin").mkdir(parents=True)
    (home / "plugins").mkdir()
    for script in (server / "sbin").iterdir():
        (home / "sbin" / script.name).symlink_to(script.resolve())
    if (server / "escript").is_dir():
        (home / "escript").symlink_to(server / "escript")
    installed = {path.name.split("-", 1)[0]: path for path in (server / "plugins").iterdir() if "-" in path.name}
    for name in plugins:
        if name not in installed:
            raise ConfigError(f"this RabbitMQ server has no plugin {name!r}", hint=f"see {server / 'plugins'}")
    for path in _closure([*_CORE_PLUGINS, *plugins], installed):
        (home / "plugins" / path.name).symlink_to(path)


def _closure(names: Iterable[str], installed: Mapping[str, Path]) -> list[Path]:
    pending, seen = list(names), dict[str, Path]()
    while pending:
        name = pending.pop()
        if name in installed and name not in seen:
            seen[name] = installed[name]
            pending += _dependencies(name, installed[name])
    return list(seen.values())


def _dependencies(name: str, path: Path) -> list[str]:
    """Return the applications in an application's ``.app`` file: in a directory, or in an archive (``.ez``)."""
    if path.is_dir():
        text = next(path.glob("ebin/*.app")).read_text() if any(path.glob("ebin/*.app")) else ""
    else:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.namelist() if entry.endswith(f"ebin/{name}.app")]
            text = archive.read(entries[0]).decode() if entries else ""
    lists = re.findall(r"\{\s*(?:included_)?applications\s*,\s*\[(.*?)\]", text, flags=re.DOTALL)
    return [word for part in lists for word in re.findall(r"\w+", part)]
