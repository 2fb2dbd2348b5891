"""A round's two stages as files for the C++ runtime: functions and arguments, serialized. Imports TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import executor_pb2
from tensorflow_federated.python.core.impl.executors.value_serialization import serialize_value

from benchmarks._computations import averaging, summing
from fedbroker.runtime.values import frame


def stages(numbers: int, silos: int, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first messages to ``benchmarks._runtime``: for a silo with one client, and for the server.

    The silo's stage is the round with a single client; the server's is the sum of all silos' updates.
    """
    model = np.random.default_rng(0).random(numbers, dtype=np.float32)
    averaged, summed = averaging(numbers), summing(numbers)
    return (
        told(directory / "silo", averaged, serialized((model, [1.0]), averaged.type_signature.parameter), 1),
        told(directory / "server", summed, updates(model, silos, summed.type_signature.parameter), silos),
    )


def told(directory: Path, computation: Any, argument: bytes, clients: int) -> dict[str, Any]:  # noqa: ANN401
    """Write the files; return the message that names them."""
    directory.mkdir()
    native = tff.backends.native.desugar_and_transform_to_native(computation)
    files = {"function": serialized(native, native.type_signature), "argument": argument}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return {name: str(directory / name) for name in files} | {"clients": clients}


def serialized(value: object, kind: Any) -> bytes:  # noqa: ANN401
    """Return a value as TFF's own serializer writes it."""
    return bytes(serialize_value(value, kind)[0].SerializeToString())


def updates(one: Any, count: int, kind: Any) -> bytes:  # noqa: ANN401
    """Return the same update from each of ``count`` clients.

    The bytes are assembled by hand, since protobuf accepts numbers one by one only.
    """
    value = serialized(one, kind.member)
    head = serialize_value([], kind)[0].federated.SerializeToString()
    members = framed(executor_pb2.Value.Federated, "value", value) * count
    return framed(executor_pb2.Value, "federated", head + members)


def framed(message: Any, field: str, content: bytes) -> bytes:  # noqa: ANN401
    """Return a serialized message with only that field."""
    return frame(message.DESCRIPTOR.fields_by_name[field].number, content) + content
