"""Describe the machine on which the figures were measured, in a line."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import psutil

from fedbroker.broker.server import find_server


def described() -> str:
    """Return processors, memory, and the versions of the relevant software."""
    processor = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = psutil.virtual_memory().total / (1 << 30)
    parts = (
        f"{os.cpu_count()} processors ({processor[1] if processor else platform.machine()})",
        f"{memory:.0f} GiB",
        f"Linux {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        f"RabbitMQ {server_version()}",
        f"tensorflow-federated {version('tensorflow-federated')}",
        f"aio-pika {version('aio-pika')}",
    )
    return ", ".join(parts)


def server_version() -> str:
    """Return the version of the installed RabbitMQ, from the name of its directory."""
    found = re.search(r"(\d+\.\d+\.\d+)", str(find_server()))
    return found[1] if found else "of an unknown version"
