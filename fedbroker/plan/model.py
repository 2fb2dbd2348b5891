"""What a plan is: stages, each a TFF computation, and the values that cross between them.

Plain immutable data over TFF's types; imports TFF only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import tensorflow_federated as tff

__all__ = ["ClientStage", "FunctionResult", "Merge", "Plan", "ResultStruct", "ServerStage", "Slot", "Stage", "Template"]


@dataclass(frozen=True, slots=True)
class Slot:
    """A value that crosses a stage's edge: a leaf of the computation's parameter, or what a stage makes.

    Attributes:
        name: unique in its plan.
        type: its TFF type, placement included.
        path: for a leaf of the parameter, the element indices that lead to it; None for what a stage makes.
    """

    name: str
    type: tff.Type = field(compare=False)
    path: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Merge:
    """One aggregate on its way from the silos to the server.

    Attributes:
        partial: what each silo sends, ``U@SERVER`` of its own runtime.
        first: the server stage's input that takes the first silo's partial, ``U``.
        rest: the server stage's input that takes the others', ``{U}@CLIENTS``, in membership order.
        aggregation: name of the strategy that computes it.
    """

    partial: Slot
    first: Slot
    rest: Slot
    aggregation: str


@dataclass(frozen=True, slots=True, eq=False)
class ClientStage:
    """A piece that runs wholly at the silos, over each one's own clients.

    Attributes:
        level: its number in the plan's order of stages, from 0.
        computation: a TFF computation as a serialized executor value; its parameter is the struct of ``inputs`` (none
            if there are none), its result the struct of ``outputs``.
        inputs: leaves of the parameter, values of server stages (crossing down), or values kept at the silo.
        partials: outputs sent to the coordinator for merging.
        kept: outputs that stay at the silo, by reference, for a later stage.
        returned: outputs that are part of the result; sent to the coordinator as they are.
    """

    level: int
    computation: bytes
    inputs: tuple[Slot, ...]
    partials: tuple[Slot, ...]
    kept: tuple[Slot, ...]
    returned: tuple[Slot, ...]

    @property
    def outputs(self) -> tuple[Slot, ...]:
        """All outputs, in the order of the computation's result; one that is kept and returned stands once."""
        return tuple(dict.fromkeys((*self.partials, *self.kept, *self.returned)))


@dataclass(frozen=True, slots=True, eq=False)
class ServerStage:
    """A piece that runs wholly at the coordinator.

    Attributes:
        level: its number; it merges the partials of client stage ``level - 1``.
        computation: a TFF computation as a serialized executor value; its parameter is the struct of ``inputs``
            followed by ``first`` and ``rest`` of each merge, its result the struct of ``outputs``.
    """

    level: int
    computation: bytes
    inputs: tuple[Slot, ...]
    merges: tuple[Merge, ...]
    outputs: tuple[Slot, ...]


Stage: TypeAlias = ServerStage | ClientStage


@dataclass(frozen=True, slots=True)
class ResultStruct:
    """A struct in the shape of a plan's result."""

    elements: tuple[tuple[str | None, Template], ...]


@dataclass(frozen=True, slots=True, eq=False)
class FunctionResult:
    """A function in a plan's result: known beforehand, since functions are never computed.

    Attributes:
        computation: as TFF's own contexts return it, ``computation_pb2.Computation``.
    """

    computation: object


Template: TypeAlias = Slot | FunctionResult | ResultStruct
"""The shape of the result: slots where values go."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A computation cut into stages, in the order in which they run.

    Attributes:
        name: what the computation is called, for people.
        type: the computation's own function type, with its Python containers.
        parameters: the leaves of its parameter: each federated value, and each largest part without any.
        stages: server and client stages, alternating.
        result: where the stages' outputs go in the result.
        exposed: the secure intrinsics that are computed in plaintext, so that the coordinator sees each silo's part.
    """

    name: str
    type: tff.FunctionType
    parameters: tuple[Slot, ...]
    stages: tuple[Stage, ...]
    result: Template
    exposed: tuple[str, ...] = ()

    @property
    def client_stages(self) -> tuple[ClientStage, ...]:
        """The stages that need silos: one barrier, and so one round trip, each."""
        return tuple(stage for stage in self.stages if isinstance(stage, ClientStage))

    @property
    def round_trips(self) -> int:
        """How often the coordinator waits for the silos: 2 messages x silos each, on the control lane."""
        return len(self.client_stages)

    def result_slots(self) -> Iterator[Slot]:
        """The slots of the result, left to right."""
        return leaves(self.result)


def leaves(template: Template) -> Iterator[Slot]:
    """The slots of a template, left to right."""
    if isinstance(template, Slot):
        yield template
    elif isinstance(template, ResultStruct):
        for _, element in template.elements:
            yield from leaves(element)
