"""Confinement of the C++ runtime: which defences are set up, and whether they suffice.

A graph that bypasses the silo's list of allowed ops meets these defences. They are independent: if the kernel or a
container refuses one, that is reported and the others are still set up. ``confine`` runs in the small host process
(standard library only); the runtime's owner parses its outcome from one line.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import struct
from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal, NamedTuple, Self, TypeAlias

from fedbroker.runtime.host import seccomp
from fedbroker.runtime.host.kernel import call, enter_private_root, restrict_files

__all__ = ["DEFENCES", "Confinement", "Mode", "Needs", "confine", "files_of"]

Mode: TypeAlias = Literal["best-effort", "required", "off"]
"""``best-effort``: run with the available defences; ``required``: refuse to run where files are unprotected; ``off``:
no defences.
"""

DEFENCES = ("mount", "ipc", "limits", "capabilities", "landlock", "seccomp")
"""Defences set up here, in this order: namespaces need the capabilities that are then dropped. The processes above this
one make the network and PID namespaces, which the setting ``isolation`` controls.
"""

_PROTECT_FILES = frozenset({"mount", "landlock"})
"""Either of these keeps a graph from the files of the silo's user."""

DATA = (
    "/dev/urandom",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/sys/net/core/somaxconn",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
)
"""Files that worker_binary, glibc and gRPC read, apart from programs and libraries; most are optional for them."""

# Of linux/sched.h, linux/prctl.h, linux/capability.h and elf.h.
_CLONE_NEWIPC = 0x08000000
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63  # of the 64 bits that version 3 has; today's kernels have 41
# The runtime needs a socket for each request and few files.
_OPEN_FILES = 4096
_PT_INTERP: Final = 3
# Time limit of ``ld.so --list``.
_SECONDS: Final = 10.0


class Confinement(NamedTuple):
    """The outcome of each defence.

    Attributes:
        in_force: active defences, each with a detail, which may be empty.
        refused: inactive defences, each with the reason.
    """

    in_force: Mapping[str, str]
    refused: Mapping[str, str]

    @property
    def protects_files(self) -> bool:
        """True if a graph that bypasses the list of allowed ops can read none of the user's files."""
        return not _PROTECT_FILES.isdisjoint(self.in_force)

    @property
    def missing(self) -> str:
        """Inactive defences with their reasons, for people; empty if all are active."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.refused.items():
            reasons.setdefault(reason, []).append(name)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())

    @property
    def line(self) -> str:
        """Summary on one line, for the owner of the runtime; read with :meth:`parse`."""
        return "\t".join(
            [f"+{name}={text}" for name, text in self.in_force.items()]
            + [f"-{name}={text}" for name, text in self.refused.items()]
        )

    @classmethod
    def parse(cls, line: str) -> Self:
        """Parse a line made by :attr:`line`."""
        parts = [part.partition("=") for part in line.split("\t") if part]
        return cls(
            {name[1:]: text for name, _, text in parts if name[0] == "+"},
            {name[1:]: text for name, _, text in parts if name[0] == "-"},
        )


class Needs(NamedTuple):
    """The resources that remain accessible to the runtime.

    Attributes:
        programs: paths that it may read and execute: itself, its loader, its libraries.
        port: the port on which it listens for requests.
        mount_point: an existing directory for the private root; None if it may have no namespaces.
    """

    programs: Collection[str]
    port: int
    mount_point: str | None


def confine(needs: Needs, without: Mapping[str, str]) -> Confinement:
    """Confine this process and the program that it executes next, as far as the kernel allows.

    Args:
        needs: the resources that remain accessible.
        without: defences to leave out, with the reason.
    """
    steps: dict[str, Callable[[Needs], str | None]] = {
        "network": _network,
        "pid": _pid,
        "mount": _private_root,
        "ipc": _ipc,
        "limits": _limits,
        "capabilities": _no_capabilities,
        "landlock": _landlock,
        "seccomp": _seccomp,
    }
    in_force: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, step in steps.items():
        if name in without:
            refused[name] = without[name]
            continue
        try:
            in_force[name] = step(needs) or ""
        except OSError as error:
            refused[name] = error.strerror or str(error)
    return Confinement(in_force, refused)


def _network(needs: Needs) -> None:
    _namespaced(needs)


def _pid(needs: Needs) -> None:
    _namespaced(needs)
    if os.getppid() != 1:  # the child must be the first process of the namespace
        raise OSError(0, "the kernel gave none")


def _private_root(needs: Needs) -> None:
    enter_private_root([*needs.programs, *DATA], _namespaced(needs))


def _ipc(needs: Needs) -> None:
    _namespaced(needs)
    call("unshare", _CLONE_NEWIPC)


def _namespaced(needs: Needs) -> str:
    if needs.mount_point is None:
        raise OSError(0, 'no namespaces with isolation = "none"')
    return needs.mount_point


def _limits(_needs: Needs) -> None:
    """Limit open files, and forbid every file to grow, however it was opened."""
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _OPEN_FILES if hard_limit == resource.RLIM_INFINITY else min(hard_limit, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _no_capabilities(_needs: Needs) -> None:
    """Drop every capability, including all that a new user namespace grants: see capabilities(7).

    Where capset(2) is refused, for example in a systemd unit, an ordinary user has none left after the next execve(2)
    anyway, since none is ambient.
    """
    with contextlib.suppress(OSError):  # fails after the last capability of this kernel; without CAP_SETPCAP at once
        for number in range(_LAST_CAPABILITY + 1):
            call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
    call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = _CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    try:
        call("capset", header, bytes(24))
    except OSError:
        if os.geteuid() == 0:
            raise


def _landlock(needs: Needs) -> str:
    return f"ABI {restrict_files(needs.programs, DATA, needs.port)}"


def _seccomp(_needs: Needs) -> None:
    seccomp.install()


# --- the files that a program needs on this machine: itself, its loader and its shared libraries ---


def files_of(path: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that the kernel and the loader open for a program, or for a script's interpreter.

    Args:
        path: absolute path of the program.
        environment: the environment that it will have; ``LD_LIBRARY_PATH`` and ``LD_PRELOAD`` matter.

    Raises:
        OSError: the program cannot be read, or its loader does not find a library.
    """
    chosen = {name: value for name, value in environment.items() if name.startswith("LD_")}
    return _files_of(path, os.stat(path).st_mtime_ns, tuple(sorted(chosen.items())))


@functools.lru_cache(maxsize=8)
def _files_of(path: str, _changed: int, environment: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    script, interpreter = _interpreter(path)
    if interpreter is None:
        return (path,)
    if script:
        return (path, *files_of(interpreter, dict(environment)))
    return (path, interpreter, *_libraries(interpreter, path, dict(environment)))


def _interpreter(path: str) -> tuple[bool, str | None]:
    """Return whether a file is a script, and its interpreter or, for a program, its loader: see elf(5)."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head.startswith(b"#!"):
            file.seek(2)
            return True, os.fsdecode(file.readline().split()[0])
        if not head.startswith(b"\x7fELF\x02\x01"):
            raise OSError(0, f"{path} is neither a script nor a 64-bit program")
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, number = struct.unpack_from("<HH", head, 54)
        file.seek(offset)
        for kind, _, start, _, _, length, _, _ in struct.iter_unpack("<IIQQQQQQ", file.read(size * number)):
            if kind == _PT_INTERP:
                file.seek(start)
                return False, os.fsdecode(file.read(length).rstrip(b"\0"))
    return False, None


def _libraries(loader: str, path: str, environment: Mapping[str, str]) -> list[str]:
    """Return the libraries that the loader lists, see ld.so(8). Nothing of the program is executed."""
    import subprocess  # here, as the host process never needs it

    try:
        done = subprocess.run(
            [loader, "--list", path],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise OSError(0, f"{loader} --list {path}: {error}") from error
    # "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f…)", or a path alone
    paths = (line.rpartition(" (0x")[0].rpartition("=> ")[2].strip() for line in os.fsdecode(done.stdout).splitlines())
    return [path for path in paths if path.startswith("/")]
