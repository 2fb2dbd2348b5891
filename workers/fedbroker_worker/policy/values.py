"""What a serialized executor value holds, told from its outer frames: numbers are neither parsed nor copied.

Imports runtime's framing, protos and values, and this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

from fedbroker.graphs import Unreadable
from fedbroker.runtime.framing import Buffer, fields
from fedbroker.runtime.protos import computation_pb2, executor_pb2
from fedbroker.runtime.values import (
    ELEMENT,
    ELEMENT_NAME,
    ELEMENT_VALUE,
    FEDERATED,
    FEDERATED_TYPE,
    MEMBER,
    SEQUENCE_GRAPH,
    SEQUENCE_TYPE,
    STRUCT,
)

__all__ = ["Part", "holds_client_values", "parts"]

MOST: Final = 1_000_000
"""Fields of messages that are looked at in one value."""

DEEPEST: Final = 100
"""Values in values; protobuf itself goes no deeper."""

SERVER: Final = "server"
"""What TFF's runtime calls the placement of an aggregate; there is one other, for what each client has."""

_NAMES: Final = {field.number: name for name, field in executor_pb2.Value.DESCRIPTOR.fields_by_name.items()}

Part: TypeAlias = tuple[Literal["computation", "graph"], memoryview]
"""A serialized ``Computation``, or the ``GraphDef`` of a sequence."""


def parts(value: Buffer) -> Iterator[Part]:
    """All computations and sequences in a value.

    Raises:
        Unreadable: it is laid out as no serializer would, so that others might see something else in it.
    """
    for kind, content in _leaves(value):
        if kind == "computation":
            yield "computation", content
        elif kind == "sequence":
            yield "graph", _graph(content)


def holds_client_values(value: Buffer) -> bool:
    """Whether any part of a value is what single clients have, by its type.

    Raises:
        Unreadable: see :func:`parts`.
    """
    return any(kind == "federated" and _placement(content) != SERVER for kind, content in _leaves(value, into=False))


def _leaves(value: Buffer, *, into: bool = True) -> Iterator[tuple[str, memoryview]]:
    """Every value in one that is no struct, by the name of its field.

    Args:
        value: serialized.
        into: go on with the members of federated values instead.
    """
    waiting = [(memoryview(value).cast("B"), 0)]
    seen = 0
    while waiting:
        one, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen + len(waiting) > MOST:
            raise Unreadable("a value in it is nested too deeply, or too wide")
        found = _fields(one)
        if len(found) != 1:
            raise Unreadable("a value in it is laid out in an unknown way")
        number, content = found[0]
        if number == STRUCT:
            waiting += [(_element(element), depth + 1) for element in _all(content, ELEMENT)]
        elif number == FEDERATED and into:
            waiting += [(member, depth + 1) for member in _all(content, MEMBER, besides=FEDERATED_TYPE)]
        elif number in _NAMES:
            yield _NAMES[number], content
        else:
            raise Unreadable("a value in it is of an unknown kind")


def _element(element: memoryview) -> memoryview:
    found = list(_all(element, ELEMENT_VALUE, besides=ELEMENT_NAME))
    if len(found) != 1:
        raise Unreadable("a struct in it is laid out in an unknown way")
    return found[0]


def _all(message: memoryview, wanted: int, *, besides: int | None = None) -> list[memoryview]:
    """The contents of a field; there must be no others but those ``besides``."""
    found = _fields(message)
    if any(number not in (wanted, besides) for number, _ in found):
        raise Unreadable("a value in it is laid out in an unknown way")
    return [content for number, content in found if number == wanted]


def _graph(sequence: memoryview) -> memoryview:
    found = _all(sequence, SEQUENCE_GRAPH, besides=SEQUENCE_TYPE)
    if len(found) != 1:
        raise Unreadable("a sequence in it is laid out in an unknown way")
    return found[0]


def _placement(federated: memoryview) -> str:
    types = [content for number, content in _fields(federated) if number == FEDERATED_TYPE]
    if len(types) != 1:
        raise Unreadable("a value in it is laid out in an unknown way")
    return str(computation_pb2.FederatedType.FromString(bytes(types[0])).placement.value.uri)


def _fields(message: memoryview) -> list[tuple[int, memoryview]]:
    try:
        return list(fields(message, MOST))
    except ValueError:
        raise Unreadable("a value in it is malformed, or too wide") from None
