"""The files that a program of this machine is made of: itself, its loader and its shared libraries."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
from collections.abc import Mapping
from typing import Final

__all__ = ["files_of"]

_PT_INTERP: Final = 3
_SECONDS: Final = 10.0


def files_of(path: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The files that the kernel and the loader open for a program, or for a script's interpreter.

    Args:
        path: of the program, absolute.
        environment: that it will have: ``LD_LIBRARY_PATH`` and ``LD_PRELOAD`` count.

    Raises:
        OSError: it cannot be read, or its loader does not find what it needs.
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
    """Whether it is a script, and what runs it: its interpreter or, as elf(5) says, its loader."""
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
    """What the loader says that it would load, see ld.so(8): it runs nothing of the program."""
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
