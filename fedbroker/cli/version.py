"""``fedbroker version``: the installed versions."""

from __future__ import annotations

import importlib.metadata
import json as json_lib
import platform
from typing import Annotated

import cyclopts

import fedbroker
from fedbroker.broker.server import find_server
from fedbroker.errors import BrokerStartError

__all__ = ["version"]


def version(*, json: Annotated[bool, cyclopts.Parameter(negative="")] = False) -> None:
    """Print the versions of fedbroker and of what it stands on.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    facts = {
        "fedbroker": fedbroker.__version__,
        "python": platform.python_version(),
        "tensorflow-federated": _installed("tensorflow-federated"),
        "aio-pika": _installed("aio-pika"),
        "rabbitmq-server": _server(),
    }
    if json:
        print(json_lib.dumps(facts))
        return
    for name, found in facts.items():
        print(f"{name} {found or 'not installed'}")


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _server() -> str | None:
    try:
        home = find_server()
    except BrokerStartError:
        return None
    plugins = sorted((home / "plugins").glob("rabbit-*"))
    return plugins[-1].name.removeprefix("rabbit-").removesuffix(".ez") if plugins else "unknown version"
