"""Serialized executor values, written and parsed by hand, so that large ones are neither parsed nor copied.

A field that holds bytes or a message is encoded as tag, length and content: see the encoding in protobuf's
documentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from fedbroker.runtime.protos import Proto, array_pb2, computation_pb2, executor_pb2

__all__ = [
    "ARRAY",
    "ARRAY_CONTENT",
    "ARRAY_SHAPE",
    "COMPUTATION",
    "ELEMENT",
    "ELEMENT_NAME",
    "ELEMENT_VALUE",
    "FEDERATED",
    "FEDERATED_TYPE",
    "MEMBER",
    "SEQUENCE",
    "SEQUENCE_GRAPH",
    "SEQUENCE_TYPE",
    "STRUCT",
    "Buffer",
    "elements_of",
    "fields",
    "frame",
    "framed",
    "is_dealt",
    "number_of",
    "prefix",
    "struct",
    "unframe",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

_CLIENTS: Final = "clients"

# Protobuf's wire type of bytes, texts and messages.
_LENGTH_DELIMITED = 2


def number_of(message: Proto, field: str) -> int:
    """Return the number of a message's field."""
    return int(message.DESCRIPTOR.fields_by_name[field].number)


ARRAY: Final = number_of(executor_pb2.Value, "array")
ARRAY_SHAPE: Final = number_of(array_pb2.Array, "shape")
ARRAY_CONTENT: Final = number_of(array_pb2.Array, "content")
COMPUTATION: Final = number_of(executor_pb2.Value, "computation")
STRUCT: Final = number_of(executor_pb2.Value, "struct")
ELEMENT: Final = number_of(executor_pb2.Value.Struct, "element")
ELEMENT_NAME: Final = number_of(executor_pb2.Value.Struct.Element, "name")
ELEMENT_VALUE: Final = number_of(executor_pb2.Value.Struct.Element, "value")
FEDERATED: Final = number_of(executor_pb2.Value, "federated")
FEDERATED_TYPE: Final = number_of(executor_pb2.Value.Federated, "type")
MEMBER: Final = number_of(executor_pb2.Value.Federated, "value")
SEQUENCE: Final = number_of(executor_pb2.Value, "sequence")
SEQUENCE_TYPE: Final = number_of(executor_pb2.Value.Sequence, "element_type")
SEQUENCE_GRAPH: Final = number_of(executor_pb2.Value.Sequence, "serialized_graph_def")


def struct(elements: Iterable[tuple[str | None, Sequence[Buffer]]]) -> list[Buffer]:
    """Return the parts of a serialized struct; each element is an optional name and the parts of its value."""
    parts: list[Buffer] = []
    for name, value in elements:
        named = framed(ELEMENT_NAME, [name.encode()]) if name else []
        parts += framed(ELEMENT, [*named, *framed(ELEMENT_VALUE, value)])
    return framed(STRUCT, parts)


def elements_of(value: Buffer) -> list[memoryview]:
    """Return the serialized elements of a serialized struct, as views of it.

    Raises:
        ValueError: the value is no struct.
    """
    elements: list[memoryview] = []
    for number, element in fields(unframe(value, STRUCT)):
        contents = [content for kind, content in fields(element) if kind == ELEMENT_VALUE]
        if number != ELEMENT or len(contents) != 1:
            raise ValueError("a struct of the C++ runtime has an unknown layout")
        elements += contents
    return elements


def prefix(field: int, length: int) -> bytes:
    """Return the tag and length of a field whose content has this many bytes."""
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(length)


def frame(field: int, *parts: Buffer) -> bytes:
    """Return the tag and length of a field whose content is ``parts``."""
    return prefix(field, sum(map(len, parts)))


def framed(field: int, parts: Sequence[Buffer]) -> list[Buffer]:
    """Return a field as parts: its tag and length, then the parts of its content."""
    return [frame(field, *parts), *parts]


def unframe(message: Buffer, field: int) -> memoryview:
    """Return the content of a message's only field, or an empty view if the field is absent.

    Raises:
        ValueError: the message has another field, or several.
    """
    content_fields = list(fields(message))
    if not content_fields:
        return memoryview(b"")
    if len(content_fields) > 1 or content_fields[0][0] != field:
        raise ValueError("a message of the C++ runtime has an unknown layout")
    return content_fields[0][1]


def fields(message: Buffer, max_fields: float = math.inf) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of each length-delimited field of a message, as views rather than copies.

    Args:
        message: its bytes.
        max_fields: maximal number of fields, including the ones of other kinds.

    Raises:
        ValueError: the message is not well-formed, or has more fields.
    """
    view = memoryview(message).cast("B")
    position = count = 0
    while position < len(view):
        count += 1
        if count > max_fields:
            raise ValueError(f"a message has more than {max_fields} fields")
        tag, position = _read_varint(view, position)
        match tag & 7:
            case 2:
                length, position = _read_varint(view, position)
                end = position + length
                if end > len(view):
                    raise ValueError("a message of the C++ runtime is cut short")
                yield tag >> 3, view[position:end]
            case 0:
                _, end = _read_varint(view, position)
            case 1:
                end = position + 8
            case 5:
                end = position + 4
            case kind:
                raise ValueError(f"a message of the C++ runtime has a field of kind {kind}")
        position = end
    if position > len(view):
        raise ValueError("a message of the C++ runtime is cut short")


def is_dealt(value: Buffer) -> bool:
    """Return whether a serialized value consists of data for single clients.

    It is placed at the clients, its type is not all-equal, and it holds no computation. Silos may be given different
    values of this kind, and of no other kind, in a masked sum. A value in an unknown layout is not dealt.
    """
    try:
        contents = list(fields(unframe(value, FEDERATED)))
        types = [content for number, content in contents if number == FEDERATED_TYPE]
        members = [content for number, content in contents if number == MEMBER]
        if len(types) != 1 or len(members) + 1 != len(contents):
            return False
        type_ = computation_pb2.FederatedType.FromString(bytes(types[0]))
        return type_.placement.value.uri == _CLIENTS and not type_.all_equal and _are_data(members)
    except (ValueError, DecodeError):
        return False


def _are_data(values: list[memoryview]) -> bool:
    """Return whether serialized values consist of arrays and sequences, alone or in structs."""
    pending = values
    while pending:
        for number, content in fields(pending.pop()):
            if number == STRUCT:
                elements = [part for kind, part in fields(content) if kind == ELEMENT]
                pending += [part for element in elements for kind, part in fields(element) if kind == ELEMENT_VALUE]
            elif number not in (ARRAY, SEQUENCE):
                return False
    return True


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _read_varint(data: memoryview, start: int) -> tuple[int, int]:
    value = shift = 0
    for index in range(start, min(start + 10, len(data))):
        value |= (data[index] & 0x7F) << shift
        if not data[index] & 0x80:
            return value, index + 1
        shift += 7
    raise ValueError("a message of the C++ runtime ends in the middle of a number")
