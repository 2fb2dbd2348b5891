"""Seccomp filter of system calls that the runtime never needs and neither mounts nor Landlock cover.

It is a list of refused calls, not of allowed ones: the C library and TensorFlow may change which calls they make, and
files are protected by other means. See seccomp(2). Runs in the small host process: standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from fedbroker.runtime.host.kernel import call

__all__ = ["install", "program"]

# Of linux/seccomp.h and linux/filter.h.
_SYS_SECCOMP = 317
_SET_MODE_FILTER = 1
# Before Linux 5.16 a filter also slows threads down against Spectre v4, which matters only for foreign machine code.
_SPEC_ALLOW = 1 << 2

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]. The low halves of the arguments:
_NUMBER, _ARCH, _FIRST, _SECOND, _THIRD, _FOURTH = 0, 4, 16, 24, 32, 40
_X86_64 = 0xC000003E
_X32 = 0x40000000  # the bit that marks the numbers of the x32 ABI of the same machine

REFUSED = {
    "namespaces and mounts": {
        "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442, "open_tree_attr": 467,
    },
    "other processes": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440, "kcmp": 312,
        "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438, "kill": 62, "tkill": 200,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "move_pages": 279, "migrate_pages": 256,
        "get_robust_list": 274, "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144,
        "sched_setattr": 314, "ioprio_set": 251,
    },
    "shared memory, semaphores and queues": {
        "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "shmdt": 67, "msgget": 68,
        "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "semtimedop": 220, "mq_open": 240, "mq_unlink": 241,
    },
    "connections to others": {"connect": 42},
    "changes to files that need no open file, or that other ways of opening one hide": {
        "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87, "symlink": 88,
        "chmod": 90, "chown": 92, "lchown": 94, "utime": 132, "mknod": 133, "setxattr": 188, "lsetxattr": 189,
        "removexattr": 197, "lremovexattr": 198, "utimes": 235, "mkdirat": 258, "mknodat": 259, "fchownat": 260,
        "futimesat": 261, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266, "fchmodat": 268,
        "utimensat": 280, "open_by_handle_at": 304, "renameat2": 316, "fchmodat2": 452, "setxattrat": 463,
        "removexattrat": 466, "file_setattr": 469,
    },
    "parts of the kernel that have had holes": {
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "bpf": 321, "userfaultfd": 323,
        "perf_event_open": 298, "add_key": 248, "request_key": 249, "keyctl": 250, "modify_ldt": 154,
        "fanotify_init": 300, "memfd_secret": 447,  # nosec B105 -- a system call, no password
    },
    "the machine": {
        "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
        "reboot": 169, "swapon": 167, "swapoff": 168, "sethostname": 170, "setdomainname": 171, "acct": 163,
        "settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305, "quotactl": 179,
        "quotactl_fd": 443, "iopl": 172, "ioperm": 173, "syslog": 103, "vhangup": 153, "personality": 135,
    },
}  # fmt: skip
"""System call numbers of x86-64, by reason. Each call fails with EPERM."""

_ABSENT = {"clone3": 435, "openat2": 437}
"""Calls whose arguments lie in memory, which a filter cannot read. They fail with ENOSYS; the C library has a
fallback.
"""

_CLONE, _OPEN, _OPENAT, _SOCKET, _TGKILL = 56, 2, 257, 41, 234
_PRLIMIT, _SETAFFINITY = 302, 203
_FCNTL, _IOCTL = 72, 16
_SIGNALLED = {_FCNTL: (8, 10, 15), _IOCTL: (0x8901, 0x8902, 0x5412)}
"""F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN and SIOCSPGRP make the kernel signal any process; TIOCSTI injects
input.
"""
_SENDTO, _SENDMSG, _SENDMMSG = 44, 46, 307
_MSG_FASTOPEN = 0x20000000  # connects implicitly
_NEW_NAMESPACES = 0x7E020000
_O_TMPFILE = 0o20000000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | _O_TMPFILE
_AF_INET, _AF_INET6, _SOCK_STREAM, _ANY_PROTOCOL, _TCP = 2, 10, 1, 0, 6
_SOCKET_TYPE = 0xFF  # the other bits are flags


def install() -> None:
    """Make the refused system calls fail in this process and the program that it executes next. Needs no_new_privs.

    Raises:
        OSError: the kernel has no filters, or the machine is not x86-64.
    """
    if os.uname().machine != "x86_64" or sys.byteorder != "little" or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, "seccomp: the numbers of system calls are known for x86-64 only")
    code = b"".join(program(os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    call("syscall", _SYS_SECCOMP, _SET_MODE_FILTER, _SPEC_ALLOW, header)


def program(pid: int) -> list[bytes]:
    """Return the filter's instructions for a process with this id."""
    eperm, enosys = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    steps = [_step(_LOAD, _ARCH), _step(_IF_EQUAL, _X86_64, 1, 0), _step(_RETURN, _KILL)]
    steps += [_step(_LOAD, _NUMBER), _step(_IF_AT_LEAST, _X32, 0, 1), _step(_RETURN, enosys)]
    for numbers, result in ((_ABSENT, enosys), *((group, eperm) for group in REFUSED.values())):
        for number in numbers.values():
            steps += [_step(_IF_EQUAL, number, 0, 1), _step(_RETURN, result)]
    refuse = _step(_RETURN, eperm)
    steps += _check(_CLONE, _step(_LOAD, _FIRST), _step(_IF_ANY_BIT, _NEW_NAMESPACES, 0, 1), refuse)
    steps += _check(_OPEN, _step(_LOAD, _SECOND), _step(_IF_ANY_BIT, _WRITES, 0, 1), refuse)
    steps += _check(_OPENAT, _step(_LOAD, _THIRD), _step(_IF_ANY_BIT, _WRITES, 0, 1), refuse)
    # abort() sends a signal to its own thread.
    steps += _check(_TGKILL, *_only(_FIRST, pid), refuse)
    for number in (_PRLIMIT, _SETAFFINITY):
        steps += _check(number, *_only(_FIRST, 0, pid), refuse)
    for number, requests in _SIGNALLED.items():
        steps += _check(number, *_none(_SECOND, *requests), refuse)
    for number, flags in ((_SENDTO, _FOURTH), (_SENDMSG, _THIRD), (_SENDMMSG, _FOURTH)):
        steps += _check(number, _step(_LOAD, flags), _step(_IF_ANY_BIT, _MSG_FASTOPEN, 0, 1), refuse)
    # TCP only: no Unix sockets of other processes, datagrams, raw packets or protocols that send without a connection.
    steps += _check(
        _SOCKET,
        _step(_LOAD, _FIRST),
        _step(_IF_EQUAL, _AF_INET, 1, 0),
        _step(_IF_EQUAL, _AF_INET6, 0, 6),
        _step(_LOAD, _SECOND),
        _step(_AND, _SOCKET_TYPE),
        _step(_IF_EQUAL, _SOCK_STREAM, 0, 3),
        *_only(_THIRD, _ANY_PROTOCOL, _TCP),
        refuse,
    )
    return [*steps, _step(_RETURN, _ALLOW)]


def _check(number: int, *body: bytes) -> list[bytes]:
    """Return the instructions for one system call: its body refuses the call, or falls through to "allow"."""
    return [_step(_IF_EQUAL, number, 0, len(body) + 1), *body, _step(_RETURN, _ALLOW)]


def _only(argument: int, *values: int) -> list[bytes]:
    """Return instructions that skip the next one if an argument is one of these values."""
    last = len(values)
    return [_step(_LOAD, argument), *(_step(_IF_EQUAL, value, last - at, 0) for at, value in enumerate(values))]


def _none(argument: int, *values: int) -> list[bytes]:
    """Return instructions that skip the next one if an argument is none of these values."""
    last = len(values) - 1
    return [
        _step(_LOAD, argument),
        *(_step(_IF_EQUAL, value, last - at, int(at == last)) for at, value in enumerate(values)),
    ]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
