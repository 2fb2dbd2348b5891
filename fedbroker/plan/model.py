"""The parts of a plan: stages, each a TFF computation, and the values that cross between them.

Plain immutable data over TFF's types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import tensorflow_federated as tff
from google.protobuf.message import Message

from fedbroker.runtime.protos import Proto, computation_pb2, executor_pb2, leaves
from fedbroker.text import bytes_text, count_text, one_line_repr
from fedbroker.wire.blobs import content_digest, digest_of

__all__ = [
    "ClientStage",
    "Fold",
    "FunctionResult",
    "MaskedSum",
    "MaskedTensor",
    "Merge",
    "Plan",
    "ResultStruct",
    "ServerStage",
    "Slot",
    "Stage",
    "Template",
    "Whole",
    "identity_of",
    "serialize_computation",
]


MODULAR_WIDTH: Final = 8
"""Bytes of each element of a masked modular sum."""

_BYTE_BITS: Final = 8


_KEY_BYTES: Final = 8  # of the number ``TensorFlow.cache_key.id``


@dataclass(frozen=True, slots=True)
class Slot:
    """A value that enters or leaves a stage: a leaf of the computation's parameter, or an output of a stage.

    Attributes:
        name: unique in its plan.
        type: its TFF type, placement included.
        path: for a leaf of the parameter, the element indices that lead to it; None for an output of a stage.
    """

    name: str
    type: tff.Type = field(compare=False)
    path: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return one_line_repr("Slot", repr(self.name), str(self.type))


@dataclass(frozen=True, slots=True)
class Merge:
    """One aggregate of the silos' clients, merged at the server.

    Attributes:
        partial: the value that each silo sends, ``U@SERVER`` of its own runtime.
        merged: all silos' partials, folded; unplaced.
        aggregation: name of the strategy that computes it.
    """

    partial: Slot
    merged: Slot
    aggregation: str


@dataclass(frozen=True, slots=True)
class MaskedTensor:
    """A tensor of a masked sum.

    Attributes:
        dtype: name of its integer dtype, such as ``int32``.
        largest: the bound on the absolute value of one client's elements, if the program states it as a literal; else
            None.
        modulus: the modulus of a modular sum, if the program states it as a literal; else None.
    """

    dtype: str
    largest: int | None = None
    modulus: int | None = None

    def width(self, clients: int) -> int:
        """Return the bytes that each element takes in a masked sum over so many clients.

        These are the fewest that hold the sum and its sign. Without a bound, they are the dtype's own, or 8 for a
        modular sum.
        """
        own: int = np.dtype(self.dtype).itemsize
        if self.largest is None:
            return own if self.modulus is None else MODULAR_WIDTH
        largest = clients * self.largest
        return next((width for width in range(1, own) if largest < 1 << (_BYTE_BITS * width - 1)), own)


@dataclass(frozen=True, slots=True)
class MaskedSum:
    """A secure aggregate whose partials are masked at the silos and added outside of the C++ runtime.

    Attributes:
        partial: the value that each silo masks and sends, ``V@SERVER`` of its own runtime.
        total: the sum over all silos, ``V``, unplaced: an input of the server stage.
        tensors: the tensors of V, left to right.
        moduli: for a modular sum whose modulus is no literal, the value of an earlier server stage that holds it: one
            integer, or one for each tensor in the structure of V; else None.
    """

    partial: Slot
    total: Slot
    tensors: tuple[MaskedTensor, ...]
    moduli: Slot | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A server stage together with the preceding fold of a number of silos' partials, as one computation.

    Attributes:
        inputs: values of earlier server stages, or of the parameter, that it needs.
        computation: a TFF computation as a serialized executor value. Its parameter is the struct of ``inputs``, then
            the struct of the silos' partials, each silo's in the order of the merges, one silo after another; its
            result is the stage's.
    """

    inputs: tuple[Slot, ...]
    computation: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """The merging of a server stage's partials: a few silos' at a time, in the order in which they are given.

    Attributes:
        inputs: values of earlier server stages, or of the parameter, that merging needs.
        computation: for a number of silos, a TFF computation as a serialized executor value. Its parameter is the
            struct of ``inputs``, then the struct of the values merged so far, one element for each merge, then the
            struct of the silos' partials, each silo's in the order of the merges, one silo after another. Its result is
            the struct of the merged values, and a zero that is available once they are.
        whole: for a number of silos, the fold of all of their partials and the rest of the stage.
        size: of one silo's partials in bytes, as far as their types determine it.
        adds: merging adds the partials' tensors and does nothing else; see :mod:`fedbroker.plan.sums`.
    """

    inputs: tuple[Slot, ...]
    computation: Callable[[int], bytes]
    whole: Callable[[int], Whole]
    size: int
    adds: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ClientStage:
    """A part of a plan that runs entirely at the silos, each over its own clients.

    Attributes:
        number: its number in the plan's order of stages, from 0.
        computation: a TFF computation as a serialized executor value; its parameter is the struct of ``inputs`` (none
            if it has no inputs), its result the struct of ``outputs``.
        inputs: leaves of the parameter, values of server stages (crossing down), or values kept at the silo.
        partials: outputs sent to the coordinator for merging.
        masked: outputs that are masked and sent to the coordinator for adding. If a stage has any, each output is
            computed and sent by itself.
        kept: outputs that stay at the silo, by reference, for a later stage.
        returned: outputs that are part of the result; sent to the coordinator unmerged.
    """

    number: int
    computation: bytes
    inputs: tuple[Slot, ...]
    partials: tuple[Slot, ...]
    kept: tuple[Slot, ...]
    returned: tuple[Slot, ...]
    masked: tuple[Slot, ...] = ()

    @property
    def outputs(self) -> tuple[Slot, ...]:
        """Return all outputs in the order of the computation's result, without duplicates."""
        return tuple(dict.fromkeys((*self.masked, *self.partials, *self.kept, *self.returned)))

    def __repr__(self) -> str:
        return _stage_repr("ClientStage", self.number, self.computation, self.inputs, self.outputs)


@dataclass(frozen=True, slots=True, eq=False)
class ServerStage:
    """A part of a plan that runs entirely at the coordinator.

    Attributes:
        number: its number; it merges the partials of client stage ``number - 1``.
        computation: a TFF computation as a serialized executor value; its parameter is the struct of ``inputs`` and
            then, if the stage merges, the struct of the merged values, its result the struct of ``outputs``.
        fold: merges the silos' partials; None if the stage merges nothing.
        sums: the masked sums of the client stage before it; the total of each is among ``inputs``.
    """

    number: int
    computation: bytes
    inputs: tuple[Slot, ...]
    merges: tuple[Merge, ...]
    outputs: tuple[Slot, ...]
    fold: Fold | None
    sums: tuple[MaskedSum, ...] = ()

    def __repr__(self) -> str:
        return _stage_repr("ServerStage", self.number, self.computation, self.inputs, self.outputs)


Stage: TypeAlias = ServerStage | ClientStage


@dataclass(frozen=True, slots=True)
class ResultStruct:
    """A struct in the shape of a plan's result."""

    elements: tuple[tuple[str | None, Template], ...]


@dataclass(frozen=True, slots=True, eq=False)
class FunctionResult:
    """A function in a plan's result: known in advance, since functions are never computed.

    Attributes:
        computation: as TFF's own contexts return it, ``computation_pb2.Computation``.
    """

    computation: object


Template: TypeAlias = Slot | FunctionResult | ResultStruct
"""The shape of the result, with slots in place of values."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A computation cut into stages, in the order in which they run.

    Attributes:
        name: the computation's name in logs and errors.
        type: the computation's own function type, with its Python containers.
        parameters: the leaves of its parameter: each federated value, and each largest part without any.
        stages: server and client stages, alternating.
        result: the result's shape, with a slot for each value that a stage computes.
        exposed: the secure sums that are computed in plaintext, so that the coordinator sees each silo's part.
        masked: the secure sums that are masked, so that the coordinator sees the total only.
        client_stages: the stages that need silos: each is one barrier, and so one round trip.
        result_slots: the slots of the result, left to right.
    """

    name: str
    type: tff.FunctionType
    parameters: tuple[Slot, ...]
    stages: tuple[Stage, ...]
    result: Template
    exposed: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    client_stages: tuple[ClientStage, ...] = field(init=False)
    result_slots: tuple[Slot, ...] = field(init=False)

    def __post_init__(self) -> None:
        client_stages = tuple(stage for stage in self.stages if isinstance(stage, ClientStage))
        object.__setattr__(self, "client_stages", client_stages)
        object.__setattr__(self, "result_slots", tuple(_slots(self.result)))

    @property
    def round_trips(self) -> int:
        """Return how often the coordinator waits for the silos: each time 2 control messages per silo."""
        return len(self.client_stages)

    def __repr__(self) -> str:
        return one_line_repr("Plan", repr(self.name), count_text(self.round_trips, "round trip"), str(self.type))


def _stage_repr(kind: str, number: int, computation: bytes, inputs: Sized, outputs: Sized) -> str:
    sizes = (count_text(len(inputs), "input"), count_text(len(outputs), "output"))
    return one_line_repr(kind, str(number), *sizes, f"computation of {bytes_text(len(computation))}")


def _slots(template: Template) -> Iterator[Slot]:
    """Yield the slots of a template, left to right."""
    if isinstance(template, Slot):
        yield template
    elif isinstance(template, ResultStruct):
        for _, element in template.elements:
            yield from _slots(element)


def serialize_computation(computation: Proto) -> bytes:
    """Return a computation as a serialized ``executor.Value``; equal computations give equal bytes, in any process.

    TFF gives each graph a random key for its runtime's cache. Here it follows from the graph, so that a program that
    was killed and started again sends the same bytes. Silos do not trust it: see ``fedbroker.runtime.cache_keys``.
    """
    value = executor_pb2.Value(computation=computation)
    for leaf in leaves(value.computation):
        if leaf.WhichOneof("computation") == "tensorflow" and leaf.tensorflow.cache_key.id:
            leaf.tensorflow.cache_key.id = 0
            content = leaf.tensorflow.SerializeToString(deterministic=True)
            leaf.tensorflow.cache_key.id = int.from_bytes(content_digest(content)[:_KEY_BYTES], "little") or 1
    return bytes(value.SerializeToString(deterministic=True))


def identity_of(plan: Plan) -> str:
    """Return a plan's content digest, the same in every process that compiles the same program.

    It covers all stages, without the random keys that TFF adds for its runtime's caches.
    """
    return digest_of("".join(_digest(stage.computation) for stage in plan.stages).encode())


def _digest(computation: bytes) -> str:
    value = executor_pb2.Value.FromString(computation)
    _drop_cache_keys(value)
    return digest_of(value.SerializeToString(deterministic=True))


def _drop_cache_keys(message: Proto) -> None:
    if isinstance(message, computation_pb2.TensorFlow):
        message.ClearField("cache_key")
        return
    for descriptor, content in message.ListFields():
        if descriptor.message_type is None:
            continue
        for part in content if descriptor.label == descriptor.LABEL_REPEATED else (content,):
            if isinstance(part, Message):
                _drop_cache_keys(part)
