"""Serialized executor values, assembled by hand from serialized parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from fedbroker.runtime.framing import Buffer, framed
from fedbroker.runtime.protos import Proto, executor_pb2

__all__ = [
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
    "number_of",
    "struct",
]


def number_of(message: Proto, field: str) -> int:
    """Return the number of a message's field."""
    return int(message.DESCRIPTOR.fields_by_name[field].number)


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
