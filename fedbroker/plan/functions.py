"""Functions as arguments: substituted into the computation before it is planned, since they never travel as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.errors import UsageError
from fedbroker.plan.blocks import Block, as_computation, element, element_types, untyped

__all__ = ["holds_function", "specialize"]

_WHOLE = "rest"


def holds_function(type_: tff.Type | None) -> bool:
    """Return whether a type is a function or contains one."""
    if type_ is None:
        return False
    return isinstance(type_, tff.FunctionType) or any(holds_function(child) for child in type_.children())


def specialize(
    comp: tff.framework.ConcreteComputation, argument: object
) -> tuple[tff.framework.ConcreteComputation, tff.structure.Struct[Any] | None]:
    """Substitute the functions among the arguments of ``comp`` into it; return it with the remaining arguments.

    Args:
        comp: a computation that takes functions, alone or in structs.
        argument: its argument, as TFF passes it to an execution context.

    Returns:
        A computation of one struct of the other arguments, and that struct; no parameter and None if no argument
            remains.

    Raises:
        UsageError: the argument for a function is no computation, or one of another type.
    """
    rest = _Rest()
    filled = rest.fill(untyped(comp.type_signature.parameter), argument)
    types = tff.StructType(rest.types)
    body = bb.Call(comp.to_building_block(), filled)
    function = bb.Lambda(_WHOLE, types, _with_parameter(body, types)) if rest.types else bb.Lambda(None, None, body)
    type_ = tff.FunctionType(types if rest.types else None, comp.type_signature.result)
    remaining = tff.structure.Struct[Any].unnamed(*rest.values) if rest.types else None
    return as_computation(function, type_), remaining


@dataclass
class _Rest:
    """The arguments that are no functions, in order."""

    types: list[tff.Type] = field(default_factory=list[tff.Type])
    values: list[object] = field(default_factory=list[object])

    def fill(self, type_: tff.Type, value: object) -> Block:
        """Return the expression for ``value`` in the call: the function itself, or a reference to a remaining value."""
        if isinstance(type_, tff.FunctionType):
            return _function(type_, value)
        if isinstance(type_, tff.StructType) and holds_function(type_):
            given = untyped(tff.structure.from_container(value))
            return bb.Struct(
                [(name, self.fill(part, given[at])) for at, (name, part) in enumerate(element_types(type_))]
            )
        self.types.append(type_)
        self.values.append(value)
        return bb.Reference(f"{_WHOLE}_{len(self.types) - 1}", type_)


def _with_parameter(body: Block, types: tff.StructType) -> Block:
    whole = bb.Reference(_WHOLE, types)
    return bb.Block([(f"{_WHOLE}_{at}", element(whole, at)) for at in range(len(types))], body)


def _function(type_: tff.FunctionType, value: object) -> Block:
    if not isinstance(value, tff.framework.ConcreteComputation):
        raise UsageError(
            f"a {type(value).__name__} was given for a function of type {type_}",
            hint="give a tff.tensorflow.computation or tff.federated_computation with a type",
        )
    given: tff.framework.ConcreteComputation = untyped(value)
    if not type_.is_assignable_from(given.type_signature):
        raise UsageError(f"a function of type {given.type_signature} was given for one of type {type_}")
    return given.to_building_block()
