"""Serialized executor values: conversion from and to Python, and the members of federated values and structs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import tensorflow_federated as tff
from tensorflow_federated.python.core.environments.tensorflow_frontend import tensorflow_computation
from tensorflow_federated.python.core.impl.types import type_conversions

from fedbroker.context.values.codec import ELEMENTS, MEMBERS, each, federated, read, with_composites, write
from fedbroker.errors import UsageError, WireError
from fedbroker.plan.model import FunctionResult, Plan, Slot, Template
from fedbroker.runtime.values import struct
from fedbroker.wire.blobs import joined
from fedbroker.wire.codec import Buffer

__all__ = [
    "ResultValues",
    "assemble",
    "deserialize",
    "elements",
    "federate",
    "members",
    "serialize",
    "split_clients",
    "structure",
]

_SAME_VERSION: Final = "use the same version of fedbroker on both sides"


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
    return _split(data, MEMBERS)


def elements(data: Buffer) -> list[memoryview]:
    """Return the serialized elements of a serialized struct, as views of it.

    Raises:
        WireError: ``data`` is malformed.
    """
    return _split(data, ELEMENTS)


def federate(values: Iterable[Buffer], type_: tff.FederatedType) -> Buffer:
    """Return a serialized federated value of that type with these serialized members."""
    return joined(federated(([value] for value in values), type_))


def structure(values: Iterable[Buffer]) -> list[Buffer]:
    """Return the parts of a serialized struct of these serialized values; joined, they are the struct."""
    return struct((None, [value]) for value in values)


def split_clients(count: int, silos: Sequence[str]) -> dict[str, range]:
    """Split ``count`` clients over silos in consecutive blocks of nearly equal size, the longer ones first."""
    quotient, remainder = divmod(count, len(silos))
    ranges: dict[str, range] = {}
    start = 0
    for index, silo in enumerate(silos):
        stop = start + quotient + (index < remainder)
        ranges[silo] = range(start, stop)
        start = stop
    return ranges


def _split(data: Buffer, path: tuple[int, ...]) -> list[memoryview]:
    try:
        return list(each(data, *path))
    except ValueError as error:
        raise WireError(f"a silo's answer is not a value: {error}", hint=_SAME_VERSION) from None


@dataclass(frozen=True, slots=True)
class ResultValues:
    """Serialized values of the result's slots, by name: one or, for a clients-placed slot, one for each silo."""

    by_slot: Mapping[str, Sequence[Buffer]]


def assemble(plan: Plan, values: ResultValues) -> object:
    """Return the result in the Python containers of the computation's type, with TFF's own dtypes."""
    python = _fill(plan.result, values)
    contained = type_conversions.type_to_py_container(python, with_composites(plan.type.result))
    return tensorflow_computation.transform_result(contained)


def _fill(template: Template, values: ResultValues) -> object:
    if isinstance(template, Slot):
        return _value(template, values.by_slot[template.name])
    if isinstance(template, FunctionResult):
        return template.computation
    return tff.structure.Struct([(name, _fill(element, values)) for name, element in template.elements])


def _value(slot: Slot, parts: Sequence[Buffer]) -> object:
    type_ = slot.type
    if not isinstance(type_, tff.FederatedType) or type_.placement is not tff.CLIENTS:
        return deserialize(parts[0], type_)
    all_members = [member for part in parts for member in members(part)]
    if not all_members:
        return []
    # The runtime does not distinguish all-equal values from others: it returns one value for each client.
    return deserialize(federate(all_members[:1] if type_.all_equal else all_members, type_), type_)
