"""Serialized executor values: to and from Python, and taking federated ones apart and together.

Imports TFF and the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import executor_pb2
from tensorflow_federated.python.core.impl.executors import value_serialization
from tensorflow_federated.python.core.impl.types import type_serialization

from fedbroker.errors import UsageError
from fedbroker.wire.codec import Buffer

__all__ = ["deal", "deserialize", "federate", "members", "serialize"]


def serialize(value: object, type_: tff.Type) -> bytes:
    """A Python value as a serialized ``executor.Value`` of that type.

    Raises:
        UsageError: the value is not of that type; with TFF's own words.
    """
    try:
        proto, _ = value_serialization.serialize_value(value, type_)
    except (TypeError, ValueError, NotImplementedError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"a value does not fit the type {type_}: {words}") from error
    return bytes(proto.SerializeToString(deterministic=True))


def deserialize(data: Buffer, type_: tff.Type) -> object:
    """The Python value of a serialized ``executor.Value``, as TFF's own contexts would return it."""
    value, _ = value_serialization.deserialize_value(executor_pb2.Value.FromString(bytes(data)), type_)
    return value


def members(data: Buffer) -> list[bytes]:
    """The serialized member values of a serialized federated value."""
    federated = executor_pb2.Value.FromString(bytes(data)).federated
    return [value.SerializeToString() for value in federated.value]


def federate(values: Iterable[Buffer], type_: tff.FederatedType) -> bytes:
    """A serialized federated value of that type with these serialized members."""
    federated = executor_pb2.Value.Federated(
        type=type_serialization.serialize_type(type_).federated,
        value=[executor_pb2.Value.FromString(bytes(value)) for value in values],
    )
    return bytes(executor_pb2.Value(federated=federated).SerializeToString(deterministic=True))


def deal(count: int, hands: Sequence[str]) -> dict[str, range]:
    """Which of ``count`` clients each silo holds: blocks in order, as even as can be, the longer ones first."""
    quotient, remainder = divmod(count, len(hands))
    dealt: dict[str, range] = {}
    start = 0
    for index, hand in enumerate(hands):
        stop = start + quotient + (index < remainder)
        dealt[hand] = range(start, stop)
        start = stop
    return dealt
