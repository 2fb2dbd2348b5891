"""As much of TensorFlow's graph messages as it takes to find ops: TensorFlow itself is not installed at a silo.

Field numbers are those of TensorFlow's ``graph.proto``, ``node_def.proto``, ``function.proto``, ``attr_value.proto``
and ``tensor.proto``. Names are bytes, so that no encoding is judged in another way than there. Imports protobuf only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["Attribute", "Graph", "Message"]

Message: TypeAlias = Any
"""Generated code has no types that a checker could see."""

_Field = descriptor_pb2.FieldDescriptorProto

_MESSAGES: Final[Mapping[str, Sequence[tuple[str, int, str | None]]]] = {
    "Graph": [("node", 1, "Node"), ("library", 2, "Library")],
    "Library": [("function", 1, "Function")],
    "Function": [("signature", 1, "Signature"), ("node_def", 3, "Node")],
    "Signature": [("name", 1, None)],
    # An attribute is looked into only where its value matters.
    "Node": [("name", 1, None), ("op", 2, None), ("input", 3, None), ("attr", 5, None)],
    "Attribute": [("key", 1, None), ("value", 2, "AttributeValue")],
    "AttributeValue": [("tensor", 8, "Tensor")],
    "Tensor": [("tensor_content", 4, None), ("string_val", 8, None)],
}
_REPEATED: Final = {"node", "function", "node_def", "input", "attr", "string_val"}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="fedbroker/graph.proto", package="fedbroker", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, type_ in fields:
            message.field.add(
                name=field,
                number=number,
                label=_Field.LABEL_REPEATED if field in _REPEATED else _Field.LABEL_OPTIONAL,
                type=_Field.TYPE_BYTES if type_ is None else _Field.TYPE_MESSAGE,
                type_name=None if type_ is None else f".fedbroker.{type_}",
            )
    return file


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def _class(name: str) -> Message:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"fedbroker.{name}"))


Graph: Message = _class("Graph")
Attribute: Message = _class("Attribute")
"""One entry of a node's attributes."""
