"""The files that a program needs on this machine: itself, its loader and its shared libraries."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
from collections.abc import Mapping
from typing import Final

__all__ = ["files_of"]

_PT_INTERP: Final = 3
# Time limit of ``ld.so --list``.
_SECONDS: Final = 10.0


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
    found = (line.rpartition(" (0x")[0].rpartition("=> ")[2].strip() for line in os.fsdecode(done.stdout).splitlines())
    return [path for path in found if path.startswith("/")]
