"""Serialize computations for the runtime."""

from __future__ import annotations

from tensorflow_federated.proto.v0 import computation_pb2, executor_pb2

__all__ = ["serialize_computation"]


def serialize_computation(computation: computation_pb2.Computation) -> bytes:
    """Return a computation as a serialized ``executor.Value``; equal computations give equal bytes."""
    return bytes(executor_pb2.Value(computation=computation).SerializeToString(deterministic=True))
