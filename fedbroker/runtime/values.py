"""Serialized executor values put together by hand from serialized parts; imports framing and protos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from fedbroker.runtime.framing import Buffer, framed
from fedbroker.runtime.protos import executor_pb2

__all__ = ["ELEMENT", "ELEMENT_NAME", "ELEMENT_VALUE", "STRUCT", "struct"]

STRUCT: Final[int] = executor_pb2.Value.DESCRIPTOR.fields_by_name["struct"].number
ELEMENT: Final[int] = executor_pb2.Value.Struct.DESCRIPTOR.fields_by_name["element"].number
ELEMENT_NAME: Final[int] = executor_pb2.Value.Struct.Element.DESCRIPTOR.fields_by_name["name"].number
ELEMENT_VALUE: Final[int] = executor_pb2.Value.Struct.Element.DESCRIPTOR.fields_by_name["value"].number


def struct(elements: Iterable[tuple[str | None, Sequence[Buffer]]]) -> list[Buffer]:
    """The parts of a serialized struct with these elements, each with its name, or none, and in parts, too."""
    parts: list[Buffer] = []
    for name, value in elements:
        named = framed(ELEMENT_NAME, [name.encode()]) if name else []
        parts += framed(ELEMENT, [*named, *framed(ELEMENT_VALUE, value)])
    return framed(STRUCT, parts)
