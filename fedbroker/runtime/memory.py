"""The memory available to this process and its children."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["LEAST_MEMORY", "SHARE", "memory_bytes", "share_of_memory"]

SHARE: Final = 0.75
"""The share of the available memory that a runtime may allocate by default."""

LEAST_MEMORY: Final = 256 << 20
"""Bytes. After its first computation a runtime takes 45 MiB on two processors, and 2 MiB for each further one."""

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OURS: Final = Path("/proc/self/cgroup")


def share_of_memory() -> int:
    """Return the number of bytes that a runtime may allocate by default."""
    return int(memory_bytes() * SHARE)


def memory_bytes(groups: Path = _CGROUPS, ours: Path = _OURS) -> int:
    """Return the machine's memory, or the limit of this process's control groups if that is lower, in bytes.

    Args:
        groups: where control groups are mounted.
        ours: the file that names this process's own.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(groups, ours)])


def _limits(groups: Path, ours: Path) -> Iterator[int]:
    """Yield the limits of our control groups and of their ancestors; skip groups without a limit."""
    try:
        lines = ours.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        for directory in (group, *group.parents):
            # In a container the path may be the host's and not exist: the container's own group is the mount.
            text = _text(directory / name)
            if text.isdigit() and int(text) > 0:
                yield int(text)
            if directory == base:
                break


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
