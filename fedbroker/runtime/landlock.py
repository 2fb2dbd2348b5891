"""Landlock: restricts a process, permanently, to a list of files; needs no privileges or namespaces.

See landlock(7), which also lists the restrictions of each ABI version. Landlock hides neither the existence of a path
nor the result of stat(2). Runs in the small host process: standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from fedbroker.runtime.kernel import call

__all__ = ["restrict"]

_CREATE_RULESET = 444
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION = 1
_PATH_BENEATH = 1
_NET_PORT = 2

_EXECUTE = 1 << 0
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_BIND_TCP = 1 << 0
_CONNECT_TCP = 1 << 1
_SCOPES = 0b11  # abstract Unix sockets, signals
_NET_ABI = 4
_SCOPE_ABI = 6


def restrict(programs: Iterable[str], data: Iterable[str], port: int) -> int:
    """Restrict this process and the program that it executes next to a few readable files and one listening TCP port.

    Nothing can be written.

    On kernels whose Landlock lacks network rules (ABI 4, Linux 6.7) or scopes (ABI 6, Linux 6.12), these are left out.

    Args:
        programs: files, or directories with all their contents, that may be read and executed.
        data: files that may be read.
        port: the port to listen on. Outgoing TCP connections are refused to every port.

    Returns:
        The version of Landlock's ABI.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    abi = call("syscall", _CREATE_RULESET, None, 0, _VERSION)
    network = _BIND_TCP | _CONNECT_TCP if abi >= _NET_ABI else 0
    scopes = _SCOPES if abi >= _SCOPE_ABI else 0
    # The kernel accepts a struct longer than its own if the rest is zero.
    attributes = struct.pack("QQQ", _all_file_rights(abi), network, scopes)
    rules = call("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for rights, paths in ((_READ_FILE | _EXECUTE, programs), (_READ_FILE, data)):
            for path in paths:
                _allow_path(rules, path, rights)
        if network:
            # gRPC binds a socket to port 0 to find out if IPv6 is available.
            for number in (port, 0):
                call("syscall", _ADD_RULE, rules, _NET_PORT, struct.pack("QQ", _BIND_TCP, number), 0)
        call("syscall", _RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
    return abi


def _all_file_rights(abi: int) -> int:
    """Return all rights of an ABI version; the first has 13, and later ones add ``refer``, ``truncate``, ``ioctl``."""
    return (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1


def _allow_path(rules: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                rights |= _READ_DIR
            rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, handle))
            call("syscall", _ADD_RULE, rules, _PATH_BENEATH, rule, 0)
        finally:
            os.close(handle)
