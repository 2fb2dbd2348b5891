"""System calls, through the C library, that Python 3.11 has no function for: namespaces, mounts, Landlock.

Runs in the small host process: only quickly imported modules of the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import stat
import struct
from collections.abc import Iterable

__all__ = [
    "Forbidden",
    "call",
    "die_with_parent",
    "enter_namespaces",
    "enter_private_root",
    "raise_loopback",
    "restrict_files",
]


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library that returns -1 and sets errno on failure.

    Integers are passed as ``long``, which ``syscall(2)`` needs and every other function accepts.

    Raises:
        OSError: the call failed; the message names the function.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    result = int(
        function(*(ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments))
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


# --- user, network and PID namespaces ---

# Of linux/sched.h, linux/prctl.h, linux/sockios.h and linux/if.h.
_NEWUSER = 0x10000000
_NEWPID = 0x20000000
_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


class Forbidden(Exception):
    """The kernel or a sandbox does not allow this process a namespace of its own."""


def enter_namespaces() -> None:
    """Move this process into a new user and network namespace, and its next child into a new PID namespace.

    The new network namespace has no connections, and its loopback is down. User and group keep their ids, and are the
    only ones inside. If no PID namespace is available, the other two are enough.

    Raises:
        Forbidden: not allowed here.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        try:
            call("unshare", _NEWUSER | _NEWNET | _NEWPID)
        except OSError:
            call("unshare", _NEWUSER | _NEWNET)
        # Without privileges a group may be mapped only after setgroups is denied.
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError as error:
        raise Forbidden(f"no user and network namespace: {error}") from error


def raise_loopback() -> None:
    """Bring up ``lo``, the only interface of a new network namespace.

    Raises:
        Forbidden: a security module withheld the privileges that a user namespace normally grants.
    """
    request = struct.pack("16sh22x", b"lo", _IFF_UP)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, request)
    except OSError as error:
        raise Forbidden(f"no loopback in the network namespace: {error}") from error


def die_with_parent() -> None:
    """Let the kernel kill this process when the *thread* that forked it ends; set no_new_privs.

    A program that changes credentials would clear the parent-death signal; no_new_privs prevents that.
    """
    call("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


# --- a mount namespace with a private root ---
#
# The kernel's rules are in mount_namespaces(7), mount(2) and pivot_root(2).

# Of linux/sched.h and linux/mount.h.
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


def enter_private_root(paths: Iterable[str], target: str) -> None:
    """Make a root that holds these files and directories, each at its own path and read-only, and enter it.

    Nothing in it can be written, not even temporarily: the sessions of a runtime share it, so one session could read
    the files of another. It has no ``/proc``.

    Args:
        paths: absolute paths; missing ones are skipped.
        target: an existing directory, onto which the root is mounted while it is made.

    Raises:
        OSError: the kernel refuses a step. The mounts made so far are in our own namespace and change nothing outside.
    """
    call("unshare", _CLONE_NEWNS)
    # Our mounts must not propagate to the host's namespace, and pivot_root needs a root that is not shared.
    call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    call("mount", b"tmpfs", os.fsencode(target), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, _ROOT_SIZE)
    for path in sorted(set(paths)):  # a directory before its contents
        if os.path.exists(path):
            _bind(path, target + path)
    _remount(target, _MS_NODEV | _MS_NOEXEC)
    os.chdir(target)
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
    flags = os.statvfs(target).f_flag & (_MS_NODEV | _MS_NOEXEC)
    _remount(target, flags if source.startswith("/dev/") else flags | _MS_NODEV)


def _remount(target: str, flags: int) -> None:
    call("mount", None, os.fsencode(target), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | flags, None)


# --- Landlock ---
#
# Restricts a process, permanently, to a list of files; needs no privileges or namespaces. See landlock(7), which also
# lists the restrictions of each ABI version. Landlock hides neither the existence of a path nor the result of stat(2).

# System calls of x86-64, and constants of linux/landlock.h.
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


def restrict_files(programs: Iterable[str], data: Iterable[str], port: int) -> int:
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
            for allowed_port in (port, 0):
                call("syscall", _ADD_RULE, rules, _NET_PORT, struct.pack("QQ", _BIND_TCP, allowed_port), 0)
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
