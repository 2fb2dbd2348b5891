"""Operations of work items: the requests to each silo's runtime for each client stage of an invocation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedbroker.context.values.arguments import Argument, ClientValues, SharedValue
from fedbroker.context.values.binding import Binding
from fedbroker.context.values.codec import ELEMENTS, serialize, split
from fedbroker.context.values.data import SiloData
from fedbroker.errors import WireError
from fedbroker.plan.model import ClientStage, Slot
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.messages import Call, Compute, Data, Digest, Drop, Op, OptionalDigest, Seeds, Select, Struct, Value

__all__ = ["BoundData", "StageOps", "is_split", "output_count", "parts_of"]

_SAME_VERSION: Final = "use the same version at both ends"


def is_split(stage: ClientStage) -> bool:
    """Return whether each output of a stage is computed by itself: values are kept at the silo, or masked."""
    return bool(stage.kept or stage.masked)


def parts_of(stage: ClientStage, outputs: Sequence[Buffer]) -> Sequence[Buffer]:
    """Return a stage's partials and then its returned values, each serialized, from the outputs of a silo.

    Args:
        stage: the stage.
        outputs: its outputs, without the masked values, which have a layout of their own
            (:mod:`fedbroker.masking.results`).

    Raises:
        WireError: these are no outputs of that stage.
    """
    expected = output_count(stage)
    if len(outputs) != expected:
        raise WireError(f"a silo's answer has {len(outputs)} outputs, and not {expected}", hint=_SAME_VERSION)
    parts = outputs if is_split(stage) else split(outputs[0], ELEMENTS)
    if len(parts) != len(stage.partials) + len(stage.returned):
        raise WireError(f"a silo's answer has {len(parts)} values", hint=_SAME_VERSION)
    return parts


def output_count(stage: ClientStage) -> int:
    """Return the number of outputs of a stage, without the masked values.

    It is one struct of all values or, if values are kept at the silo or masked, each value alone.
    """
    return len(stage.partials) + len(stage.returned) if is_split(stage) else 1


@dataclass(frozen=True, slots=True)
class BoundData:
    """Silos' data bound to a parameter.

    Attributes:
        handle: the data handle that the caller passed.
        binding: the value to make of the columns; the same for every silo.
        columns: for each silo, name and dtype of the columns to read.
        order: digest of the order of rows in this invocation; empty if they are not shuffled.
    """

    handle: SiloData
    binding: Binding
    columns: dict[str, tuple[tuple[str, str], ...]]
    order: OptionalDigest = ""


@dataclass(frozen=True, slots=True)
class _WrittenStage:
    """The ingredients of one stage's operations, kept for late joiners."""

    slots: Sequence[Slot]
    refs: Mapping[str, int]
    scratch: Mapping[str, tuple[int, ...]]
    server_values: Mapping[str, Buffer]
    tail: Sequence[Op]


@dataclass
class StageOps:
    """The operations of one invocation, written stage after stage, and the values that each silo holds.

    References have the same numbers at every silo, so that operations differ only in the silos' data.

    Attributes:
        client_ranges: for each silo, its range of the clients in the lists.
        arguments: the arguments, by slot name.
        bound: the data handles among them, by slot name.
        blobs: content of every digest named so far in the stage being written.
    """

    client_ranges: dict[str, range]
    arguments: Mapping[str, Argument]
    bound: Mapping[str, BoundData]
    blobs: dict[Digest, Buffer] = field(default_factory=dict[Digest, Buffer])
    _refs: dict[str, int] = field(default_factory=dict[str, int])
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _written: _WrittenStage | None = None

    def write(
        self, stage: ClientStage, server_values: Mapping[str, Buffer], keep: Sequence[str], *, last: bool
    ) -> dict[str, tuple[Op, ...]]:
        """Write the operations of a stage for each silo.

        Args:
            stage: the stage.
            server_values: serialized values of the server-placed and unplaced inputs, by slot name.
            keep: names of the slots that a later stage still needs at the silo.
            last: no later stage follows: the silo forgets all values when the session ends.

        Returns:
            For each silo, its operations. Their only output is the struct of the stage's partials and returned values.
            If values are kept at the silo or masked, each is an output of its own, the masked ones first: see
            :func:`parts_of`.
        """
        self.blobs = {}
        shared = [slot for slot in stage.inputs if slot.name not in self._refs]
        refs = {slot.name: next(self._numbers) for slot in shared}
        scratch = {slot.name: self._scratch(self.bound[slot.name]) for slot in shared if slot.name in self.bound}
        loads = {silo: self._load(shared, refs, scratch, server_values, silo) for silo in self.client_ranges}
        self._refs |= refs
        tail = self._run(stage, keep, last)
        self._written = _WrittenStage(shared, refs, scratch, server_values, tail)
        return {silo: (*load, *tail) for silo, load in loads.items()}

    def enlist(
        self, newcomer: str, straggler: str, clients: int, columns: Mapping[str, tuple[tuple[str, str], ...]]
    ) -> tuple[Op, ...]:
        """Return the operations of the stage written last for a late joiner in a straggler's place.

        Args:
            newcomer: name of the late joiner.
            straggler: name of the straggler, whose clients of the lists it gets.
            clients: number of its clients.
            columns: for each data handle, by slot name, the columns to read from its source.
        """
        written = self._written
        assert written is not None
        clients_range = self.client_ranges[straggler]
        self.client_ranges[newcomer] = clients_range if len(clients_range) == clients else range(clients)
        for name, silo_columns in columns.items():
            self.bound[name].columns[newcomer] = silo_columns
        load = self._load(written.slots, written.refs, written.scratch, written.server_values, newcomer)
        return (*load, *written.tail)

    def _run(self, stage: ClientStage, keep: Sequence[str], last: bool) -> list[Op]:
        """Call the stage's computation, compute the values for the coordinator, drop those not needed any more."""
        function, result = next(self._numbers), next(self._numbers)
        ops: list[Op] = [Value(function, self._blob(stage.computation))]
        argument = None
        temporary = [function, result]
        if stage.inputs:
            argument = next(self._numbers)
            temporary.append(argument)
            ops.append(Struct(argument, tuple((slot.name, self._refs[slot.name]) for slot in stage.inputs)))
        ops.append(Call(result, function, argument))
        if is_split(stage):
            for index, slot in enumerate(stage.outputs):
                self._refs[slot.name] = next(self._numbers)
                ops.append(Select(self._refs[slot.name], result, index))
            ops += [Compute(self._refs[slot.name]) for slot in (*stage.masked, *stage.partials, *stage.returned)]
        else:
            ops.append(Compute(result))
        if last:
            self._refs.clear()
            return ops
        unused = [name for name in self._refs if name not in keep]
        ops.append(Drop((*temporary, *(self._refs.pop(name) for name in unused))))
        return ops

    def _load(
        self,
        slots: Sequence[Slot],
        refs: Mapping[str, int],
        scratch: Mapping[str, tuple[int, ...]],
        server_values: Mapping[str, Buffer],
        silo: str,
    ) -> list[Op]:
        """Return the operations that load the inputs which a silo does not hold yet."""
        ops: list[Op] = []
        for slot in slots:
            argument = self.arguments.get(slot.name)
            if slot.name in self.bound:
                ops += self._load_data(refs[slot.name], self.bound[slot.name], silo, scratch[slot.name])
            elif isinstance(argument, ClientValues):
                values = [argument.values[index] for index in self.client_ranges[silo]]
                ops.append(Value(refs[slot.name], self._blob(serialize(values, slot.type))))
            else:
                value = argument.value if isinstance(argument, SharedValue) else server_values[slot.name]
                ops.append(Value(refs[slot.name], self._blob(value)))
        return ops

    def _scratch(self, bound: BoundData) -> tuple[int, ...]:
        """Return numbers for the values of which a data handle's value is made."""
        return tuple(next(self._numbers) for _ in range(4 if bound.binding.shuffles else 2))

    def _load_data(self, ref: int, bound: BoundData, silo: str, scratch: tuple[int, ...]) -> list[Op]:
        columns, binder, *shuffling = scratch
        ops: list[Op] = [
            Data(columns, bound.handle.name, bound.columns[silo], bound.binding.scalar),
            Value(binder, self._blob(bound.binding.binder)),
        ]
        argument = columns
        if shuffling:
            seeds, argument = shuffling
            ops += [Seeds(seeds, bound.order), Struct(argument, (("", columns), ("", seeds)))]
        return [*ops, Call(ref, binder, argument), Drop(scratch)]

    def _blob(self, data: Buffer) -> Digest:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest
