"""Serialized executor values: conversion from and to Python, and the members of federated values and structs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import tensorflow_federated as tff

from fedbroker.context.codec import ELEMENTS, MEMBERS, each, federated, read, write
from fedbroker.errors import UsageError, WireError
from fedbroker.runtime.values import struct
from fedbroker.wire.codec import Buffer
from fedbroker.wire.room import joined

__all__ = ["deal", "deserialize", "elements", "federate", "members", "serialize", "structure"]

_SAME_VERSION: Final = "use the same version of fedbroker at both ends"


def serialize(value: object, type_: tff.Type) -> Buffer:
    """Return a Python value as a serialized ``executor.Value`` of that type.

    Raises:
        UsageError: the value is not of that type; with TFF's error.
    """
    try:
        return joined(write(value, type_))
    except (TypeError, ValueError, NotImplementedError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"a value does not fit the type {type_}: {words}") from error


def deserialize(data: Buffer, type_: tff.Type) -> object:
    """Return the Python value of a serialized ``executor.Value``, as TFF's own contexts would.

    Large arrays are read-only views of ``data``; those of TFF's contexts are read-only views of a copy.
    """
    return read(data, type_)


def members(data: Buffer) -> list[memoryview]:
    """Return the serialized members of a serialized federated value, as views of it.

    Raises:
        WireError: ``data`` is malformed.
    """
    return _taken_apart(data, MEMBERS)


def elements(data: Buffer) -> list[memoryview]:
    """Return the serialized elements of a serialized struct, as views of it.

    Raises:
        WireError: ``data`` is malformed.
    """
    return _taken_apart(data, ELEMENTS)


def federate(values: Iterable[Buffer], type_: tff.FederatedType) -> Buffer:
    """Return a serialized federated value of that type with these serialized members."""
    return joined(federated(([value] for value in values), type_))


def structure(values: Iterable[Buffer]) -> list[Buffer]:
    """Return the parts of a serialized struct of these serialized values; joined, they are the struct."""
    return struct((None, [value]) for value in values)


def deal(count: int, hands: Sequence[str]) -> dict[str, range]:
    """Deal ``count`` clients to silos in consecutive blocks of nearly equal size, the longer ones first."""
    quotient, remainder = divmod(count, len(hands))
    dealt: dict[str, range] = {}
    start = 0
    for index, hand in enumerate(hands):
        stop = start + quotient + (index < remainder)
        dealt[hand] = range(start, stop)
        start = stop
    return dealt


def _taken_apart(data: Buffer, path: tuple[int, ...]) -> list[memoryview]:
    try:
        return list(each(data, *path))
    except ValueError as error:
        raise WireError(f"a silo's answer is not a value: {error}", hint=_SAME_VERSION) from None
