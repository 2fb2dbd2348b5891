"""TensorFlow's graph messages and its list of ops, read without TensorFlow, which is not installed at a silo.

Field numbers and types are those of TensorFlow's ``graph.proto``, ``node_def.proto``, ``function.proto``,
``op_def.proto``, ``attr_value.proto`` and ``tensor.proto``, with three differences. Names are bytes, so that no
encoding is judged differently than in TensorFlow. Maps are lists of entries, so that a duplicate key is seen. Messages
without meaning for a graph's computation, such as debug information, stay bytes.

An op is allowed if it is on the list and in no refused family. A list of the refused ops alone would allow every op
that a newer TensorFlow adds; a list of the allowed ops alone, written by hand, would refuse half of the programs. So
``scripts/ops.py`` writes the list from TensorFlow's own registry, by families of names, and an op that is not on it,
such as an op of a separate library, is refused as unknown.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

__all__ = ["FAMILIES", "STRING", "Graph", "Message", "Unreadable", "known_ops", "parse", "why_refused"]

Message: TypeAlias = Any
"""Generated code has no types that a type checker could see."""

STRING: Final = 7
"""``DT_STRING``, a tensor's dtype."""

FAMILIES: Final[Mapping[str, str]] = {
    "files": "reads or writes files",
    "network": "reaches other machines or devices",
    "output": "writes to standard error or to files",
    "processes": "ends the process",
    "python": "calls Python",
    "code": "runs code that comes as a value, which cannot be looked into beforehand",
    "in_place": "overwrites tensors that others still read",
    "shared": "leaves values behind for other computations",
}
"""The effect of each refused family's ops, for people."""

# NUMBER NAME TYPE: `*` marks a list, `?` a field with presence, `|` the members of the message's oneof.
_SCHEMA: Final[Mapping[str, str]] = {
    "Graph": "1 node *Node; 2 library Library; 3 version int32; 4 versions bytes; 5 debug_info bytes",
    "Library": "1 function *Function; 2 gradient *Gradient; 3 registered_gradients *RegisteredGradient",
    "Gradient": "1 function_name bytes; 2 gradient_func bytes",
    "RegisteredGradient": "1 gradient_func bytes; 2 registered_op_type bytes",
    "Function": (
        "1 signature Signature; 3 node_def *Node; 4 ret *Name; 5 attr *Attribute; 6 control_ret *Name;"
        " 7 arg_attr *ArgumentAttributes; 8 resource_arg_unique_id *bytes"
    ),
    "Signature": (
        "1 name bytes; 2 input_arg *Argument; 3 output_arg *Argument; 4 attr *AttributeType; 5 summary bytes;"
        " 6 description bytes; 8 deprecation bytes; 16 is_aggregate bool; 17 is_stateful bool; 18 is_commutative bool;"
        " 19 allows_uninitialized_input bool; 20 control_output *bytes; 21 is_distributed_communication bool"
    ),
    "Argument": (
        "1 name bytes; 2 description bytes; 3 type int32; 4 type_attr bytes; 5 number_attr bytes;"
        " 6 type_list_attr bytes; 7 handle_data *bytes; 16 is_ref bool; 17 experimental_full_type bytes"
    ),
    "AttributeType": (
        "1 name bytes; 2 type bytes; 3 default_value AttributeValue; 4 description bytes; 5 has_minimum bool;"
        " 6 minimum int64; 7 allowed_values AttributeValue"
    ),
    "ArgumentAttributes": "1 key ?uint32; 2 value ArgumentAttributesValue",
    "ArgumentAttributesValue": "1 attr *Attribute",
    "Node": (
        "1 name bytes; 2 op bytes; 3 input *bytes; 4 device bytes; 5 attr *Attribute; 6 experimental_debug_info bytes;"
        " 7 experimental_type bytes"
    ),
    "Name": "1 key ?bytes; 2 value ?bytes",
    "Attribute": "1 key ?bytes; 2 value AttributeValue",
    "AttributeValue": (
        "1 list |List; 2 s |bytes; 3 i |int64; 4 f |float; 5 b |bool; 6 type |int32; 7 shape |Shape; 8 tensor |Tensor;"
        " 9 placeholder |bytes; 10 func |Called"
    ),
    "List": (
        "2 s *bytes; 3 i *int64; 4 f *float; 5 b *bool; 6 type *int32; 7 shape *Shape; 8 tensor *Tensor; 9 func *Called"
    ),
    "Called": "1 name bytes; 2 attr *Attribute",
    "Shape": "2 dim *Dimension; 3 unknown_rank bool",
    "Dimension": "1 size int64; 2 name bytes",
    "Tensor": (
        "1 dtype int32; 2 tensor_shape Shape; 3 version_number int32; 4 tensor_content bytes; 5 float_val *float;"
        " 6 double_val *double; 7 int_val *int32; 8 string_val *bytes; 9 scomplex_val *float; 10 int64_val *int64;"
        " 11 bool_val *bool; 12 dcomplex_val *double; 13 half_val *int32; 14 resource_handle_val *bytes;"
        " 15 variant_val *bytes; 16 uint32_val *uint32; 17 uint64_val *uint64; 18 float8_val bytes"
    ),
}

_Field = descriptor_pb2.FieldDescriptorProto
_FIELD: Final = re.compile(r"\s*(\d+) (\w+) ([*?|]?)(\w+)")


class Unreadable(ValueError):
    """A graph, or the message that contains it, whose meaning cannot be read for certain."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="fedbroker/graph.proto", package="fedbroker", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, field, mark, type_ in _FIELD.findall(fields):
            added = message.field.add(
                name=field, number=int(number), label=_Field.LABEL_REPEATED if mark == "*" else _Field.LABEL_OPTIONAL
            )
            if type_ in _SCHEMA:
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".fedbroker.{type_}"
            else:
                added.type = _Field.Type.Value(f"TYPE_{type_.upper()}")
            if mark == "|":
                added.oneof_index = 0
            elif mark == "?":
                added.oneof_index, added.proto3_optional = len(message.oneof_decl), True
                message.oneof_decl.add(name=f"_{field}")
        if "|" in fields:
            message.oneof_decl.add(name="value")
    return file


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.Add(_file())
Graph: Message = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("fedbroker.Graph"))


def parse(serialized: bytes) -> Message:
    """Parse a ``GraphDef``, if the bytes are exactly as a serializer writes it.

    Two readers of protocol buffers may differ in bytes that no serializer writes: a field twice, a field that only one
    of them knows, a list in two parts. All of these are refused.

    Raises:
        Unreadable: the bytes are malformed, nested too deeply, or laid out in another way.
    """
    try:
        graph = Graph.FromString(serialized)
    except DecodeError:
        raise Unreadable("it is malformed, or nested too deeply") from None
    graph.DiscardUnknownFields()
    if graph.SerializeToString(deterministic=True) != serialized:
        raise Unreadable("a graph in it is laid out as no serializer would, or by another version of TensorFlow")
    return graph


@functools.cache
def known_ops() -> Mapping[str, str]:
    """Return every op of TensorFlow with its family; the family of an allowed op is empty."""
    text = resources.files("fedbroker.graphs").joinpath("ops.txt").read_text(encoding="ascii")
    pairs = (line.split() for line in text.splitlines())
    return {op: "" if family == "-" else family for op, family in pairs}


def why_refused(op: str) -> str:
    """Return why an op is refused; an empty string for an allowed op."""
    family = known_ops().get(op)
    if family is None:
        return "unknown"
    return FAMILIES[family] if family else ""
