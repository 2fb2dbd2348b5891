"""User, network and PID namespaces through the C library, since Python 3.11 has no ``os.unshare``.

Runs in the small host process: only quickly imported modules of the standard library.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct

from fedbroker.runtime.kernel import call

__all__ = ["Forbidden", "die_with_parent", "enter", "raise_loopback"]

_NEWUSER = 0x10000000
_NEWPID = 0x20000000
_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


class Forbidden(Exception):
    """The kernel or a sandbox does not allow this process a namespace of its own."""


def enter() -> None:
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
