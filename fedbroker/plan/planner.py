"""Make a plan of a TFF computation: the entry point to this package's parts."""

from __future__ import annotations

from dataclasses import replace

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.errors import PlanError
from fedbroker.plan.blocks import Block, elements_of, names_in_order, proto_of
from fedbroker.plan.build import Builder
from fedbroker.plan.compiler import DEFECT, Flat, SecureSum, flatten
from fedbroker.plan.cut import analyse, check_captures
from fedbroker.plan.model import FunctionResult, Plan, ResultStruct, Slot, Template

__all__ = ["make_plan"]


def make_plan(comp: tff.Computation, *, secure_sum: SecureSum = "refuse") -> Plan:
    """Cut ``comp`` into stages.

    Planning takes some tenths of a second for a learning process: callers cache the plan.

    Args:
        comp: a computation with a type; only polymorphic computations have none.
        secure_sum: how secure intrinsics are handled.

    Raises:
        PlanError: it cannot run on a cohort; names the unsupported part and its replacement.
    """
    if not isinstance(comp, tff.framework.ConcreteComputation):
        raise PlanError(
            f"{type(comp).__name__} is not a TFF computation with a type",
            hint="decorate it with the parameter's types: @tff.federated_computation(tff.FederatedType(…))",
        )
    flat = _name_result_leaves(flatten(comp, secure_sum))
    values = analyse(flat)
    slots = {slot.name: slot for slot in flat.parameters}
    slots |= {local.name: Slot(local.name, local.type) for local in values.values() if local.name not in slots}
    builder = Builder(values, slots, frozenset(names_in_order(flat.result)))
    template = _template(flat.result, slots)
    stages = builder.stages()
    return Plan(flat.name, comp.type_signature, flat.parameters, stages, template, flat.exposed, flat.masked)


def _name_result_leaves(flat: Flat) -> Flat:
    """Make every leaf of the result a reference or a function: bind an expression to a local of its own."""
    extra: list[tuple[str, Block]] = []
    bound = dict(flat.locals)

    def named(block: Block) -> Block:
        if isinstance(block, bb.Struct):
            return bb.Struct([(name, named(part)) for name, part in elements_of(block)])
        if isinstance(block.type_signature, tff.FunctionType):
            return bound[block.name] if isinstance(block, bb.Reference) and block.name in bound else block
        if isinstance(block, bb.Reference):
            return block
        name = f"result_{len(extra)}"
        extra.append((name, block))
        return bb.Reference(name, block.type_signature)

    result = named(flat.result)
    return replace(flat, locals=(*flat.locals, *extra), result=result)


def _template(block: Block, slots: dict[str, Slot]) -> Template:
    if isinstance(block, bb.Struct):
        return ResultStruct(tuple((name, _template(part, slots)) for name, part in elements_of(block)))
    if isinstance(block.type_signature, tff.FunctionType):
        check_captures(block)
        return FunctionResult(proto_of(block))
    if isinstance(block, bb.Reference):
        return slots[block.name]
    raise PlanError(f"the result holds {block.compact_representation()[:80]}, which is no value", hint=DEFECT)
