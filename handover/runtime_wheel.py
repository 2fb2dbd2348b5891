"""``runtime_wheel.py WHEEL DIRECTORY``: makes ``fedbroker-runtime``, TFF's C++ runtime by itself, from TFF's wheel.

A silo needs two things of ``tensorflow-federated``: the program ``worker_binary`` and the generated modules of its
protocol. Both work with any Python, but the wheel's metadata admits none above 3.11 and asks for all of TensorFlow.
The new wheel has these files as they are, below the package ``fedbroker_runtime``, and no dependencies. The same wheel
gives the same bytes. Needs the standard library only; prints the path of the new wheel.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

NAME = "fedbroker_runtime"
BINARY = "tensorflow_federated/data/worker_binary"
PROTOS = "tensorflow_federated/proto/"

_TAG = "py3-none-manylinux_2_31_x86_64"
_EPOCH = (1980, 1, 1, 0, 0, 0)
# A regular file, with the mode that pip gives to it: pip keeps nothing but the right to execute.
_FILE, _PROGRAM = 0o100644 << 16, 0o100755 << 16
_PIECE = 1 << 20


class NotTff(Exception):
    """The given file is not a wheel of tensorflow-federated with its C++ runtime."""


def make(source: Path, directory: Path) -> Path:
    """Write the runtime's wheel into a directory, and return its path."""
    with zipfile.ZipFile(source) as tff:
        files = {name for name in tff.namelist() if wanted(name)}
        if BINARY not in files or not any(name.endswith("_pb2.py") for name in files):
            raise NotTff(f"{source} has no {BINARY} or no protocol modules")
        metadata = dist_info(tff)
        version = field(tff.read(f"{metadata}/METADATA").decode(), "Version")
        info = f"{NAME}-{version}.dist-info"
        path = directory / f"{NAME}-{version}-{_TAG}.whl"
        unfinished = path.with_suffix(".unfinished")
        with zipfile.ZipFile(unfinished, "w") as wheel:
            record = [add(wheel, f"{NAME}/__init__.py", iter([b'"""TFF\'s C++ runtime."""\n']))]
            record += [
                add(wheel, f"{NAME}/{name}", pieces(tff, name), program=name == BINARY) for name in sorted(files)
            ]
            record += [
                add(wheel, f"{info}/{name}", iter([text])) for name, text in texts(tff, metadata, version).items()
            ]
            add(wheel, f"{info}/RECORD", iter(["".join([*record, f"{info}/RECORD,,\n"]).encode()]))
    return unfinished.replace(path)


def wanted(name: str) -> bool:
    """Return whether a file of TFF's wheel belongs to its runtime: the program, or a module of its protocol."""
    if name == BINARY:
        return True
    return name.startswith(PROTOS) and PurePosixPath(name).name.endswith(("_pb2.py", "__init__.py"))


def dist_info(tff: zipfile.ZipFile) -> str:
    """Return the directory of a wheel's metadata."""
    for name in tff.namelist():
        directory, _, file = name.partition("/")
        if file == "METADATA" and directory.startswith("tensorflow_federated-"):
            return directory
    raise NotTff(f"{tff.filename} has no metadata of tensorflow-federated")


def field(metadata: str, name: str) -> str:
    """Return a field of a distribution's metadata."""
    return next(line.partition(": ")[2] for line in metadata.splitlines() if line.startswith(f"{name}: "))


def texts(tff: zipfile.ZipFile, metadata: str, version: str) -> dict[str, bytes]:
    """Return the new wheel's own metadata: with TFF's licence, since the files are TFF's."""
    described = (
        f"Metadata-Version: 2.1\nName: {NAME.replace('_', '-')}\nVersion: {version}\n"
        "Summary: The C++ runtime of tensorflow-federated and its protocol, by itself\nLicense: Apache-2.0\n"
    )
    wheel = f"Wheel-Version: 1.0\nGenerator: fedbroker\nRoot-Is-Purelib: false\nTag: {_TAG}\n"
    licence = {"LICENSE": tff.read(f"{metadata}/LICENSE")} if f"{metadata}/LICENSE" in tff.namelist() else {}
    return {"METADATA": described.encode(), "WHEEL": wheel.encode(), **licence}


def pieces(tff: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """Yield the content of a file, which may be 300 MB, in pieces."""
    with tff.open(name) as file:
        while piece := file.read(_PIECE):
            yield piece


def add(wheel: zipfile.ZipFile, name: str, content: Iterator[bytes], *, program: bool = False) -> str:
    """Write a file, and return its line of RECORD. It is not compressed, since the wheel is installed at once."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # Unix: the attributes are a mode
    entry.external_attr = _PROGRAM if program else _FILE
    digest, size = hashlib.sha256(), 0
    with wheel.open(entry, "w", force_zip64=program) as file:
        for piece in content:
            digest.update(piece)
            size += file.write(piece)
    text = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    return f"{name},sha256={text},{size}\n"


if __name__ == "__main__":
    try:
        print(make(Path(sys.argv[1]), Path(sys.argv[2])))
    except (NotTff, OSError, zipfile.BadZipFile) as error:
        raise SystemExit(f"runtime_wheel: {error}") from None
