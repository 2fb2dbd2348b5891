"""Build a plan's stages: TFF computations assembled from the locals of one stage and place."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.aggregation import Partials
from fedbroker.plan.blocks import (
    Block,
    as_tensorflow,
    bind,
    element,
    element_types,
    names_in_order,
    parameter_of,
    proto_of,
    result_of,
    static_bytes,
    tf,
)
from fedbroker.plan.cut import Local, Place
from fedbroker.plan.masked import Masked
from fedbroker.plan.model import ClientStage, Fold, ServerStage, Slot, Stage, Whole, serialize_computation
from fedbroker.plan.sums import only_adds

__all__ = ["Builder", "in_order_of_use"]

_INPUTS = "inputs"


@dataclass(frozen=True)
class Builder:
    """Builds the stages of one computation.

    Attributes:
        values: every parameter leaf and needed local, in order of evaluation.
        slots: the slot of each of them.
        result: names of the locals and leaves that the result consists of.
    """

    values: Mapping[str, Local]
    slots: Mapping[str, Slot]
    result: frozenset[str]

    def stages(self) -> tuple[Stage, ...]:
        """Return all stages in the order in which they run; empty ones are left out."""
        count = 1 + max((local.stage for local in self.values.values()), default=0)
        pairs = [(self._server(number), self._client(number)) for number in range(count)]
        return tuple(stage for pair in pairs for stage in pair if stage is not None)

    def _server(self, number: int) -> ServerStage | None:
        mine = [local for local in self.values.values() if self._at_server(local) and local.stage == number]
        if not mine:
            return None
        merging = [(one, one.aggregation) for one in mine if isinstance(one.aggregation, Partials)]
        adding = [(one, one.aggregation) for one in mine if isinstance(one.aggregation, Masked)]
        merges = {one.name: strategy.slots(one.name, one.expression) for one, strategy in merging}
        sums = {one.name: strategy.slots(one.name, one.expression) for one, strategy in adding}
        reports = {one.name: strategy.report(one.expression, merges[one.name]) for one, strategy in merging}
        reports |= {one.name: strategy.report(sums[one.name].total) for one, strategy in adding}
        locals_ = [(one.name, reports.get(one.name, one.expression)) for one in mine]
        outputs = [self.slots[local.name] for local in mine if self._leaves_server_stage(local)]
        merged = [merge.merged for merge in merges.values()]
        totals = {one.total.name: one.total for one in sums.values()}
        staged = replace(self, slots={**self.slots, **totals})
        inputs, computation = staged._assemble(locals_, _result(outputs), [merged] if merged else [])
        functions = [(one.name, strategy.merge(one.expression)) for one, strategy in merging]
        fold = staged._fold(functions, merged, locals_, outputs) if functions else None
        return ServerStage(
            number, computation, inputs, tuple(merges.values()), tuple(outputs), fold, tuple(sums.values())
        )

    def _fold(
        self,
        merges: Sequence[tuple[str, Block]],
        merged: Sequence[Slot],
        report: Sequence[tuple[str, Block]],
        outputs: Sequence[Slot],
    ) -> Fold:
        """Return the fold that merges a server stage's partials.

        Args:
            merges: for each merge a name, and the function that merges two values.
            merged: for each merge the slot of its result.
            report: the stage's own locals.
            outputs: the stage's outputs.
        """

        @functools.cache
        def some(silos: int) -> tuple[tuple[Slot, ...], bytes]:
            folded = fold(merges, silos)
            fed = [_slots(folded.so_far), _slots(folded.partials)]
            return self._assemble(folded.locals, with_ready(folded.merged), fed)

        @functools.cache
        def whole(silos: int) -> Whole:
            folded = fold(merges, silos - 1)
            results = [(slot.name, block) for slot, block in zip(merged, folded.merged, strict=True)]
            fed = [_slots((*folded.so_far, *folded.partials))]
            return Whole(*self._assemble([*folded.locals, *results, *report], _result(outputs), fed))

        inputs, _ = some(1)
        size = sum(static_bytes(slot.type) or 0 for slot in merged)  # a merged value has its partials' type
        adds = not inputs and all(only_adds(merge) for _, merge in merges)
        return Fold(inputs, lambda silos: some(silos)[1], whole, size, adds)

    def _client(self, number: int) -> ClientStage | None:
        mine = [local for local in self.values.values() if self._at_clients(local) and local.stage == number]
        crossing = [local for local in self.values.values() if local.aggregation and local.stage == number + 1]
        # A client-placed leaf of the parameter may be the silos' own data: only they can return it.
        passed = [local for local in self.values.values() if self._is_passed_on(local) and number == 0]
        if not (mine or crossing or passed):
            return None
        sent: dict[bool, list[Slot]] = {True: [], False: []}
        locals_ = [(local.name, local.expression) for local in mine]
        for local in crossing:
            assert local.aggregation is not None
            partial = local.aggregation.slots(local.name, local.expression).partial
            sent[isinstance(local.aggregation, Masked)].append(partial)
            locals_.append((partial.name, local.aggregation.partial(local.expression)))
        kept = tuple(self.slots[local.name] for local in mine if self._used_by_clients_after(local, number))
        returned = tuple(self.slots[local.name] for local in (*passed, *mine) if local.name in self.result)
        masked, partials = tuple(sent[True]), tuple(sent[False])
        outputs = dict.fromkeys((*masked, *partials, *kept, *returned))
        inputs, computation = self._assemble(locals_, _result(outputs), [])
        return ClientStage(number, computation, inputs, partials, kept, returned, masked)

    @staticmethod
    def _at_server(local: Local) -> bool:
        """Return whether the coordinator evaluates it: server-placed, or unplaced and to be evaluated once."""
        return local.block is not None and (local.place is Place.SERVER or local.once)

    @staticmethod
    def _at_clients(local: Local) -> bool:
        return local.block is not None and local.place is Place.CLIENTS

    def _is_passed_on(self, local: Local) -> bool:
        return local.block is None and local.place is Place.CLIENTS and local.name in self.result

    def _leaves_server_stage(self, local: Local) -> bool:
        return local.name in self.result or any(
            self._needs(other, local.name)
            for other in self.values.values()
            if self._at_clients(other) or other.aggregation or (self._at_server(other) and other.stage > local.stage)
        )

    def _used_by_clients_after(self, local: Local, number: int) -> bool:
        """Return whether a later client stage refers to it; client stage k computes the aggregates of stage k + 1."""
        return any(
            local.name in other.uses
            for other in self.values.values()
            if (self._at_clients(other) and other.stage > number) or (other.aggregation and other.stage > number + 1)
        )

    def _needs(self, local: Local, name: str) -> bool:
        """Return whether ``local`` refers to ``name``, directly or through unplaced values that each stage repeats."""
        return any(
            use == name or (self._is_repeated(self.values[use]) and self._needs(self.values[use], name))
            for use in local.uses
        )

    @staticmethod
    def _is_repeated(local: Local) -> bool:
        """Return whether it is unplaced and pure: every stage that needs it evaluates it."""
        return local.block is not None and local.place is Place.NOWHERE and not local.once

    def _assemble(
        self, locals_: Sequence[tuple[str, Block]], result: Block, fed: Sequence[Sequence[Slot]]
    ) -> tuple[tuple[Slot, ...], bytes]:
        """Build a computation that binds ``locals_`` and returns ``result``.

        Returns:
            The slots that it takes in addition to ``fed``, and the computation, whose parameter is these slots and then
                a struct for each of ``fed``, in this order.
        """
        # A repeated value may need one that is evaluated once, and the reverse.
        bodies = in_order_of_use([*self._repeated(block for _, block in locals_), *locals_])
        bound = {name for name, _ in bodies} | {slot.name for slots in fed for slot in slots}
        wanted = [name for name in names_in_order(*(block for _, block in bodies), result) if name not in bound]
        inputs = tuple(self.slots[name] for name in wanted)
        struct = tff.StructType([(slot.name, slot.type) for slot in inputs] + [_struct_type(slots) for slots in fed])
        source = bb.Reference(_INPUTS, struct)
        values = {slot.name: element(source, index) for index, slot in enumerate(inputs)}
        for index, slots in enumerate(fed, len(inputs)):
            group = element(source, index)
            values |= {slot.name: element(group, place) for place, slot in enumerate(slots)}
        body = bb.Block([(name, bind(block, values)) for name, block in bodies], bind(result, values))
        function = bb.Lambda(_INPUTS, struct, body) if len(struct) else bb.Lambda(None, None, body)
        return inputs, serialize_computation(proto_of(function))

    def _repeated(self, blocks: Iterable[Block]) -> list[tuple[str, Block]]:
        """Return the unplaced pure locals that ``blocks`` need, directly or indirectly, in order of evaluation."""
        needed: set[str] = set()
        waiting = names_in_order(*blocks)
        while waiting:
            name = waiting.pop()
            local = self.values.get(name)
            if local is not None and name not in needed and self._is_repeated(local):
                needed.add(name)
                waiting.extend(local.uses)
        return [
            (name, local.block) for name, local in self.values.items() if name in needed and local.block is not None
        ]


def in_order_of_use(bodies: Sequence[tuple[str, Block]]) -> list[tuple[str, Block]]:
    """Return named values so that each follows those that it refers to, and otherwise in the given order."""
    position = {name: at for at, (name, _) in enumerate(bodies)}
    waits_for = [{position[use] for use in names_in_order(block) if use in position} for _, block in bodies]
    used_by: list[list[int]] = [[] for _ in bodies]
    for at, uses in enumerate(waits_for):
        for use in uses:
            used_by[use].append(at)
    ready = [at for at, uses in enumerate(waits_for) if not uses]  # a sorted list is a heap
    ordered: list[tuple[str, Block]] = []
    while ready:
        at = heapq.heappop(ready)
        ordered.append(bodies[at])
        for other in used_by[at]:
            waits_for[other].remove(at)
            if not waits_for[other]:
                heapq.heappush(ready, other)
    return ordered


def _result(outputs: Iterable[Slot]) -> Block:
    return bb.Struct([(slot.name, bb.Reference(slot.name, slot.type)) for slot in outputs])


def _slots(references: Sequence[bb.Reference]) -> list[Slot]:
    return [Slot(reference.name, reference.type_signature) for reference in references]


def _struct_type(slots: Sequence[Slot]) -> tuple[None, tff.Type]:
    return None, tff.StructType([(slot.name, slot.type) for slot in slots])


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A fold over some silos' partials.

    Attributes:
        locals: to be bound, in this order.
        so_far: for each merge a reference to the value merged so far.
        partials: references to the silos' partials: each silo's in the order of the merges, one silo after another.
        merged: for each merge the value afterwards.
    """

    locals: tuple[tuple[str, Block], ...]
    so_far: tuple[bb.Reference, ...]
    partials: tuple[bb.Reference, ...]
    merged: tuple[Block, ...]


def fold(merges: Sequence[tuple[str, Block]], silos: int) -> Folded:
    """Build the fold of ``silos`` silos' partials into the values merged so far.

    Args:
        merges: for each merge a name, and the function that merges two.
        silos: the number of silos; 0 leaves the merged values as they are.
    """
    sides = [_sides(function) for _, function in merges]
    so_far = tuple(
        bb.Reference(f"{name}_so_far", left) for (name, _), ((_, left), _) in zip(merges, sides, strict=True)
    )
    partials = tuple(
        bb.Reference(f"{name}_{silo}", right)
        for silo in range(silos)
        for (name, _), (_, (_, right)) in zip(merges, sides, strict=True)
    )
    locals_ = [(f"{name}_merge", function) for name, function in merges]
    merged: list[Block] = list(so_far)
    for silo in range(silos):
        for index, (name, function) in enumerate(merges):
            merge = bb.Reference(f"{name}_merge", function.type_signature)
            (left, _), (right, _) = sides[index]
            next_one = partials[silo * len(merges) + index]
            step = f"{name}_step_{silo}"
            locals_.append((step, bb.Call(merge, bb.Struct([(left, merged[index]), (right, next_one)]))))
            merged[index] = bb.Reference(step, result_of(function))
    return Folded(tuple(locals_), so_far, partials, tuple(merged))


def _sides(merge: Block) -> list[tuple[str | None, tff.Type]]:
    """Return name and type of both arguments of a function that merges two values."""
    parameter = parameter_of(merge)
    assert isinstance(parameter, tff.StructType)
    return element_types(parameter)


def with_ready(merged: Sequence[Block]) -> Block:
    """Return ``<<merged, …>, zero>``. The zero is available once the rest is: the runtime offers no other signal."""
    every = bb.Struct(merged)
    return bb.Struct([every, bb.Call(_ready(every.type_signature), every)])


def _ready(type_: tff.Type) -> Block:
    """Return a function from a value of this type to an int32 zero."""

    def zero(_: object) -> object:
        return tf.constant(0, tf.int32)

    return as_tensorflow(zero, type_)
