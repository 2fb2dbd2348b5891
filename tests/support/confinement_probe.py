"""Probe of the C++ runtime's confinement: attempts system calls and writes their errnos as JSON to standard error."""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
OTHER = globals().get("OWNER", os.getppid())


def attempt(*arguments):
    """Make a system call; return the name of its errno, or "ok"."""
    ctypes.set_errno(0)
    done = LIBC.syscall(*(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
    return "ok" if done >= 0 else errno.errorcode[ctypes.get_errno()]


def tried(function, *arguments):
    """Call a Python function; return the name of its errno, or its result."""
    try:
        return function(*arguments) or "ok"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def opened(path, flags):
    os.close(os.open(path, flags, 0o600))


def connected(family, kind, address):
    with socket.socket(family, kind) as one:
        one.settimeout(5)
        one.connect(address)


def fast_opened(send):
    """Connect by sending (TCP fast open), without connect(2)."""
    with socket.socket() as one:
        send(one, 0x20000000, ("127.0.0.1", globals().get("PORT", 9)))


def made(protocol):
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol).close()


def signalled():
    """Let the kernel send a signal to the owner of a socket."""
    ours, theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, OTHER)
    fcntl.fcntl(ours, 10, signal.SIGURG)  # F_SETSIG, and a signal that is ignored by default
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
    theirs.send(b"x")


def grown():
    """Write to a memory file, which only a limit on file sizes could forbid."""
    handle = os.memfd_create("grown")
    os.write(handle, b"x")


def forked():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def cloned():
    ctypes.set_errno(0)
    child = LIBC.syscall(56, ctypes.c_long(0x10000000 | 17), 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")
    os.waitpid(child, 0)


def effective():
    data = (ctypes.c_uint32 * 6)()
    LIBC.capget(ctypes.byref((ctypes.c_uint32 * 2)(0x20080522, 0)), ctypes.byref(data))
    return sum(data)


def bounding():
    return sum(LIBC.prctl(23, number, 0, 0, 0) == 1 for number in range(64))


found = {
    "kill": tried(os.kill, OTHER, 0),
    "tgkill": attempt(234, OTHER, OTHER, 0),
    "ptrace": attempt(101, 0x4206, os.getppid(), 0, 0),
    "process_vm_readv": attempt(310, os.getppid(), 0, 0, 0, 0, 0),
    "prlimit64": attempt(302, OTHER, resource.RLIMIT_CORE, ctypes.byref((ctypes.c_ulong * 2)(0, 0)), 0),
    "setpriority": attempt(141, 0, OTHER, 0),
    "sched_setscheduler": attempt(144, OTHER, 0, ctypes.byref(ctypes.c_int(0))),
    "sched_setaffinity": attempt(203, OTHER, 128, ctypes.byref((ctypes.c_ulong * 16)(*[2**64 - 1] * 16))),
    "ioprio_set": attempt(251, 1, OTHER, 0),
    "F_SETOWN": tried(signalled),
    "pidfd_open": attempt(434, os.getppid(), 0),
    "clone with a namespace": tried(cloned),
    "clone3": attempt(435, 0, 0),
    "mount": attempt(165, 0, b"/", 0, 0, 0),
    "setns": attempt(308, -1, 0),
    "io_uring_setup": attempt(425, 1, 0),
    "bpf": attempt(321, 0, 0, 0),
    "keyctl": attempt(250, 0, -3, 0),
    "perf_event_open": attempt(298, 0, 0, 0, 0, 0),
    "userfaultfd": attempt(323, 0),
    "x32": attempt(0x40000000 + 39),
    "shmget": attempt(29, globals().get("SHARED", 0), 4096, 0o600),
    "unix socket": tried(connected, socket.AF_UNIX, socket.SOCK_STREAM, "/nowhere"),
    "abstract socket": tried(connected, socket.AF_UNIX, socket.SOCK_STREAM, "\0nowhere"),
    "datagram": tried(connected, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
    "connection": tried(connected, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", globals().get("PORT", 9))),
    "sendto": tried(fast_opened, lambda one, flag, to: one.sendto(b"x", flag, to)),
    "sendmsg": tried(fast_opened, lambda one, flag, to: one.sendmsg([b"x"], (), flag, to)),
    "multipath": tried(made, socket.IPPROTO_MPTCP),
    "sctp": tried(made, socket.IPPROTO_SCTP),
    "tcp": tried(made, socket.IPPROTO_TCP),
    "write": tried(opened, "/etc/ld.so.cache", os.O_WRONLY),
    "create": tried(opened, "/dev/shm/confined", os.O_WRONLY | os.O_CREAT),
    "truncate": tried(os.truncate, sys.argv[0], 0),
    "grow": tried(grown),
    "fork": tried(forked),
    "own signal": attempt(234, os.getpid(), os.getpid(), 0),
    "effective": effective(),
    "bounding": bounding(),
    "no_new_privs": LIBC.prctl(39, 0, 0, 0, 0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    "own limit": attempt(302, 0, resource.RLIMIT_CORE, 0, ctypes.byref((ctypes.c_ulong * 2)())),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
}
found["unshare"] = attempt(272, 0x10000000)  # last, since on success it grants privileges
with contextlib.suppress(OSError):
    os.unlink("/dev/shm/confined")
print(json.dumps(found), file=sys.stderr)
