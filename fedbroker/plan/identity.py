"""A plan's content digest: the same in every process that compiles the same program."""

from __future__ import annotations

from google.protobuf.message import Message
from tensorflow_federated.proto.v0 import computation_pb2, executor_pb2

from fedbroker.plan.model import Plan
from fedbroker.wire.blobs import digest_of

__all__ = ["identity_of"]


def identity_of(plan: Plan) -> str:
    """Return the digest of all stages, without the random keys that TFF adds for its runtime's caches."""
    return digest_of("".join(_digest(stage.computation) for stage in plan.stages).encode())


def _digest(computation: bytes) -> str:
    value = executor_pb2.Value.FromString(computation)
    _drop_cache_keys(value)
    return digest_of(value.SerializeToString(deterministic=True))


def _drop_cache_keys(message: Message) -> None:
    if isinstance(message, computation_pb2.TensorFlow):
        message.ClearField("cache_key")
        return
    for field, content in message.ListFields():
        if field.message_type is None:
            continue
        for part in content if field.label == field.LABEL_REPEATED else (content,):
            if isinstance(part, Message):
                _drop_cache_keys(part)
