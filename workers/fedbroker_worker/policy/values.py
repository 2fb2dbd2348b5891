"""The parts of a serialized executor value, read from its outer frames: numbers are neither parsed nor copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from google.protobuf.message import DecodeError

from fedbroker.graphs import Unreadable
from fedbroker.runtime.protos import array_pb2, computation_pb2, executor_pb2
from fedbroker.runtime.values import (
    ARRAY_SHAPE,
    ELEMENT,
    ELEMENT_NAME,
    ELEMENT_VALUE,
    FEDERATED,
    FEDERATED_TYPE,
    MEMBER,
    SEQUENCE_GRAPH,
    SEQUENCE_TYPE,
    STRUCT,
    Buffer,
    fields,
)

__all__ = ["Layout", "Part", "holds_client_values", "layout", "parts", "shape_of"]

MAX_FIELDS: Final = 1_000_000
"""The most message fields that are examined in one value, which bounds the time that a hostile value can take."""

MAX_DEPTH: Final = 100
"""The deepest nesting of values; protobuf's own parser has the same limit."""

SERVER: Final = "server"
"""TFF's name for the placement of an aggregate."""

CLIENTS: Final = "clients"
"""TFF's name for the placement of values of single clients."""

_NAMES: Final = {field.number: name for name, field in executor_pb2.Value.DESCRIPTOR.fields_by_name.items()}

Part: TypeAlias = tuple[Literal["computation", "graph"], memoryview]
"""A serialized ``Computation``, or the ``GraphDef`` of a sequence."""


def parts(value: Buffer) -> Iterator[Part]:
    """Yield all computations and sequences in a value.

    Raises:
        Unreadable: no serializer would lay it out like this, so that another parser might read it differently.
    """
    for kind, content in _leaves(value):
        if kind == "computation":
            yield "computation", content
        elif kind == "sequence":
            yield "graph", _only(content, SEQUENCE_GRAPH, ignored=SEQUENCE_TYPE)


def holds_client_values(value: Buffer) -> bool:
    """Return whether any part of a value belongs to single clients, by its type.

    Raises:
        Unreadable: see :func:`parts`.
    """
    return any(kind == "federated" and _placement(content) != SERVER for kind, content in _leaves(value, into=False))


@dataclass(frozen=True, slots=True)
class Layout:
    """The structure of a value.

    Attributes:
        kind: ``array``, ``computation``, ``sequence``, ``struct``, or the placement of a federated value.
        content: its serialized content.
        elements: the elements of a struct, or the one member of a value at the server.
        dealt: True if at least two clients have different values.
    """

    kind: str
    content: memoryview
    elements: tuple[Layout, ...] = ()
    dealt: bool = False


def layout(value: Buffer) -> Layout:
    """Return the structure of a value, down to its tensors and clients' values.

    Raises:
        Unreadable: see :func:`parts`.
    """
    return _layout(memoryview(value).cast("B"), [0], 0)


def _layout(value: memoryview, seen: list[int], depth: int) -> Layout:
    seen[0] += 1
    found = _fields(value)
    if depth > MAX_DEPTH or seen[0] > MAX_FIELDS or len(found) != 1:
        raise Unreadable("a value in it is nested too deeply, too wide, or laid out in an unknown way")
    number, content = found[0]
    if number == STRUCT:
        values = [_only(element, ELEMENT_VALUE, ignored=ELEMENT_NAME) for element in _all(content, ELEMENT)]
        return Layout("struct", content, tuple([_layout(value, seen, depth + 1) for value in values]))
    if number != FEDERATED:
        return Layout(_NAMES.get(number, ""), content)
    members = _all(content, MEMBER, ignored=FEDERATED_TYPE)
    placement = _placement(content)
    if placement == CLIENTS:
        return Layout(CLIENTS, content, dealt=any(member != members[0] for member in members))
    if placement != SERVER or len(members) != 1:
        raise Unreadable("a value in it has an unknown placement")
    return Layout(SERVER, content, (_layout(members[0], seen, depth + 1),))


def shape_of(array: Layout) -> tuple[int, ...] | None:
    """Return the shape of an array; None if its rank is unknown.

    Raises:
        Unreadable: it is malformed.
    """
    found = [content for number, content in _fields(array.content) if number == ARRAY_SHAPE]
    if len(found) > 1:
        raise Unreadable("a value in it is laid out in an unknown way")
    try:
        shape = array_pb2.ArrayShape.FromString(bytes(found[0] if found else b""))
    except DecodeError:
        raise Unreadable("a value in it is malformed") from None
    return None if shape.unknown_rank else tuple(shape.dim)


def _leaves(value: Buffer, *, into: bool = True) -> Iterator[tuple[str, memoryview]]:
    """Yield every value inside ``value`` that is not a struct, with the name of its field.

    Args:
        value: serialized.
        into: yield the members of federated values instead of these values.
    """
    pending = [(memoryview(value).cast("B"), 0)]
    seen = 0
    while pending:
        current, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH or seen + len(pending) > MAX_FIELDS:
            raise Unreadable("a value in it is nested too deeply, or too wide")
        found = _fields(current)
        if len(found) != 1:
            raise Unreadable("a value in it is laid out in an unknown way")
        number, content = found[0]
        if number == STRUCT:
            values = [_only(element, ELEMENT_VALUE, ignored=ELEMENT_NAME) for element in _all(content, ELEMENT)]
            pending += [(value, depth + 1) for value in values]
        elif number == FEDERATED and into:
            pending += [(member, depth + 1) for member in _all(content, MEMBER, ignored=FEDERATED_TYPE)]
        elif number in _NAMES:
            yield _NAMES[number], content
        else:
            raise Unreadable("a value in it is of an unknown kind")


def _all(message: memoryview, field: int, *, ignored: int | None = None) -> list[memoryview]:
    """Return the contents of a field; raise Unreadable for any other field except ``ignored``."""
    found = _fields(message)
    if any(number not in (field, ignored) for number, _ in found):
        raise Unreadable("a value in it is laid out in an unknown way")
    return [content for number, content in found if number == field]


def _only(message: memoryview, field: int, *, ignored: int) -> memoryview:
    """Return the content of a field that a message has exactly once; raise Unreadable for any other field."""
    found = _all(message, field, ignored=ignored)
    if len(found) != 1:
        raise Unreadable("a struct or sequence in it is laid out in an unknown way")
    return found[0]


def _placement(federated: memoryview) -> str:
    types = [content for number, content in _fields(federated) if number == FEDERATED_TYPE]
    if len(types) != 1:
        raise Unreadable("a value in it is laid out in an unknown way")
    return str(computation_pb2.FederatedType.FromString(bytes(types[0])).placement.value.uri)


def _fields(message: memoryview) -> list[tuple[int, memoryview]]:
    try:
        return list(fields(message, MAX_FIELDS))
    except ValueError:
        raise Unreadable("a value in it is malformed, or too wide") from None
