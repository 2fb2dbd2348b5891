"""Mount namespace with a private root that holds only the files that the C++ runtime needs.

The kernel's rules are in mount_namespaces(7), mount(2) and pivot_root(2). Runs in the small host process: standard
library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from fedbroker.runtime.kernel import call

__all__ = ["enter_private_root"]

_CLONE_NEWNS = 0x00020000
_MS_RDONLY = 0x1
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MS_NOEXEC = 0x8
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_MNT_DETACH = 2
_SYS_PIVOT_ROOT = 155  # x86-64, the only machine that TFF's binary is for; glibc has no wrapper
_ROOT_SIZE = b"size=256k,mode=0755"  # directories and empty files only, as targets of bind mounts


def enter_private_root(paths: Iterable[str], at: str) -> None:
    """Make a root that holds these files and directories, each at its own path and read-only, and enter it.

    Nothing in it can be written, not even temporarily: the sessions of a runtime share it, so one session could read
    the files of another. It has no ``/proc``.

    Args:
        paths: absolute paths; missing ones are skipped.
        at: an existing directory, onto which the root is mounted while it is made.

    Raises:
        OSError: the kernel refuses a step. The mounts made so far are in our own namespace and change nothing outside.
    """
    call("unshare", _CLONE_NEWNS)
    # Our mounts must not propagate to the host's namespace, and pivot_root needs a root that is not shared.
    call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    call("mount", b"tmpfs", os.fsencode(at), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, _ROOT_SIZE)
    for path in sorted(set(paths)):  # a directory before its contents
        if os.path.exists(path):
            _bind(path, at + path)
    _remount(at, _MS_NODEV | _MS_NOEXEC)
    os.chdir(at)
    # Same directory twice: the old root is then mounted over the new one, and can be detached from there.
    call("syscall", _SYS_PIVOT_ROOT, b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _bind(source: str, target: str) -> None:
    if os.path.exists(target):
        return  # inside a directory that is bound already
    if os.path.isdir(source):
        os.makedirs(target)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    call("mount", os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)
    # A bind mount keeps its source's flags, and an unprivileged namespace may not clear these.
    kept = os.statvfs(target).f_flag & (_MS_NODEV | _MS_NOEXEC)
    _remount(target, kept if source.startswith("/dev/") else kept | _MS_NODEV)


def _remount(target: str, flags: int) -> None:
    call("mount", None, os.fsencode(target), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | flags, None)
