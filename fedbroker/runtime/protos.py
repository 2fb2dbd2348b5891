"""TFF's generated protobuf modules without TFF: 0.2 s and 40 MiB, where the full import takes 10 s and 600 MiB.

Importing any submodule of ``tensorflow_federated`` first executes the package, and with it all of TensorFlow. Here an
empty module takes the package's place during the import. A silo without TFF has its runtime and these modules from
``fedbroker-runtime``, below a package of another name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

__all__ = ["Proto", "array_pb2", "computation_pb2", "data_type_pb2", "executor_pb2", "leaves", "package_directory"]

Proto: TypeAlias = Any
"""A message of a generated module, or its class: generated code has no types."""

_PACKAGE = "tensorflow_federated"
_RUNTIME = "fedbroker_runtime"
_PROTOS = f"{_PACKAGE}.proto.v0"
_PARENTS = (_PACKAGE, f"{_PACKAGE}.proto", _PROTOS)


def package_directory() -> Path:
    """Return the directory of TFF's runtime and protocol, without executing a package.

    It is the installed ``tensorflow_federated``, or, without it, the share of it that ``fedbroker-runtime`` has.

    Raises:
        ModuleNotFoundError: neither is installed.
    """
    for name, directory in ((_PACKAGE, "."), (_RUNTIME, _PACKAGE)):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            return Path(spec.submodule_search_locations[0], directory)
    raise ModuleNotFoundError(
        "neither tensorflow-federated nor fedbroker-runtime is installed: install.sh installs one of them",
        name=_PACKAGE,
    )


def _load(names: tuple[str, ...]) -> tuple[Any, ...]:
    """Import generated modules; leave ``sys.modules`` fit for a full import of TFF before or after."""
    if _PACKAGE in sys.modules:
        return tuple(importlib.import_module(f"{_PROTOS}.{name}") for name in names)
    bare = ModuleType(_PACKAGE)
    bare.__path__ = [str(package_directory())]
    sys.modules[_PACKAGE] = bare
    try:
        return tuple(importlib.import_module(f"{_PROTOS}.{name}") for name in names)
    finally:
        # The generated modules stay, so that a later full import finds the same classes. Their parents are removed:
        # that import must run the real package, and it ends with `del proto`, which needs a fresh import of `proto`.
        for parent in _PARENTS:
            sys.modules.pop(parent, None)


# Generated code has no types for a checker: `Any` ends at the modules that use these.
array_pb2: Any
computation_pb2: Any
data_type_pb2: Any
executor_pb2: Any
array_pb2, computation_pb2, data_type_pb2, executor_pb2 = _load(
    ("array_pb2", "computation_pb2", "data_type_pb2", "executor_pb2")
)


def leaves(computation: Proto) -> Iterator[Proto]:
    """Yield every ``Computation`` in a computation that contains no other, in an order that depends on it alone.

    The one walk over a serialized computation, shared by the policy that reads its graphs and by the cache keys.

    A leaf is a TensorFlow computation, an intrinsic, a reference, a placement, a literal, or of an unknown kind.
    """
    pending = [computation]
    while pending:
        inner = pending.pop()
        match inner.WhichOneof("computation"):
            case "lambda":
                pending.append(getattr(inner, "lambda").result)
            case "block":
                pending += [local.value for local in inner.block.local]
                pending.append(inner.block.result)
            case "call":
                pending.append(inner.call.function)
                if inner.call.HasField("argument"):
                    pending.append(inner.call.argument)
            case "struct":
                pending += [element.value for element in inner.struct.element]
            case "selection":
                pending.append(inner.selection.source)
            case _:
                yield inner
