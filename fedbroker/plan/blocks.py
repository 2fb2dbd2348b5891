"""TFF's building blocks and types, with types: TFF and TensorFlow ship none that a checker can use, so they enter here.

Bound and free names, the parts of structs and functions, the name of a computation, the size of a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import tensorflow
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.context_stack import context_stack_impl

from fedbroker.runtime.protos import Proto

__all__ = [
    "UNNAMED",
    "Block",
    "Untyped",
    "as_computation",
    "as_tensorflow",
    "bind",
    "element",
    "element_types",
    "elements_of",
    "free",
    "name_of",
    "name_of_block",
    "names_in_order",
    "parameter_of",
    "proto_of",
    "result_of",
    "static_bytes",
    "struct_of",
    "tf",
    "untyped",
    "walk",
]

Block: TypeAlias = bb.ComputationBuildingBlock

Untyped: TypeAlias = Any
"""A value or module of TensorFlow or TFF whose type no checker can see."""

UNNAMED: Final = "computation"
"""The name of a computation whose decorated function is unknown."""

# TFF keeps no name, but derives the names of parameter and locals from the name of the decorated function.
_PARAMETER: Final = re.compile(r"(.+)_arg(_\d+)?")
_LOCAL: Final = re.compile(r"fc_(.+)_symbol_\d+")


def untyped(value: object) -> Untyped:
    """Return ``value``, for which a checker infers a wrong type, or none, from TFF's source."""
    return value


tf: Final[Untyped] = untyped(tensorflow)
"""TensorFlow, which has no types."""


# --- parts ---


def proto_of(block: Block) -> Proto:
    """Return a building block as a message ``Computation``."""
    return untyped(block).proto


def elements_of(struct: bb.Struct) -> list[tuple[str | None, Block]]:
    """Return name (or None) and value of each element of a struct."""
    return list(tff.structure.iter_elements(untyped(struct)))


def element_types(type_: tff.StructType) -> list[tuple[str | None, tff.Type]]:
    """Return name (or None) and type of each element of a struct type."""
    return list(tff.structure.iter_elements(untyped(type_)))


def element(source: Block | None, index: int) -> Block:
    """Return an element of a value whose type is a struct: the element itself, or a selection from the value."""
    if isinstance(source, bb.Struct):
        selected: Block = untyped(source)[index]
        return selected
    return bb.Selection(untyped(source), index=index)


def parameter_of(function: Block) -> tff.Type:
    """Return the type of the parameter of a function that has one."""
    assert isinstance(function.type_signature, tff.FunctionType)
    assert function.type_signature.parameter is not None
    return function.type_signature.parameter


def result_of(function: Block) -> tff.Type:
    """Return the type of a function's result."""
    assert isinstance(function.type_signature, tff.FunctionType)
    return function.type_signature.result


def walk(block: Block) -> Iterator[Block]:
    """Yield ``block`` and every block in it."""
    yield block
    for child in block.children():
        yield from walk(child)


# --- new computations ---


def as_computation(block: Block, type_: tff.FunctionType | None = None) -> tff.framework.ConcreteComputation:
    """Return a building block as a computation, of another type with the same meaning if one is given."""
    return tff.framework.ConcreteComputation(
        computation_proto=proto_of(block), context_stack=context_stack_impl.context_stack, annotated_type=untyped(type_)
    )


def as_tensorflow(function: Callable[..., object], parameter: tff.Type) -> Block:
    """Trace a Python function, whose control flow is TensorFlow's already, as a TensorFlow computation."""
    traced = untyped(tff.tensorflow.computation)(tf.autograph.experimental.do_not_convert(function), parameter)
    block: Block = traced.to_compiled_building_block()
    return block


def struct_of(value: Untyped, type_: tff.Type) -> object:
    """Return tuples as TFF's structs, with the names of ``type_``."""
    if not isinstance(type_, tff.StructType):
        return value
    parts = zip(element_types(type_), value, strict=True)
    return tff.structure.Struct[Any]([(name, struct_of(part, part_type)) for (name, part_type), part in parts])


# --- names ---


def bind(block: Block, values: Mapping[str, Block]) -> Block:
    """Replace the free references named in ``values`` in ``block``, and resolve selections from structs."""
    if isinstance(block, bb.Reference):
        return values.get(block.name, block)
    if isinstance(block, bb.Selection):
        return element(bind(block.source, values), block.as_index())
    if isinstance(block, bb.Struct):
        return bb.Struct([(name, bind(value, values)) for name, value in elements_of(block)])
    if isinstance(block, bb.Call):
        argument = None if block.argument is None else bind(block.argument, values)
        return bb.Call(bind(block.function, values), argument)
    if isinstance(block, bb.Lambda):
        inner = {name: value for name, value in values.items() if name != block.parameter_name}
        return bb.Lambda(block.parameter_name, block.parameter_type, bind(block.result, inner))
    if isinstance(block, bb.Block):
        inner = dict(values)
        bound: list[tuple[str, Block]] = []
        for name, value in block.locals:
            bound.append((name, bind(value, inner)))
            inner.pop(name, None)
        return bb.Block(bound, bind(block.result, inner))
    return block


def free(block: Block, bound: frozenset[str] = frozenset()) -> Iterator[bb.Reference]:
    """Yield the references in ``block`` to names that it does not bind itself, with repetitions."""
    if isinstance(block, bb.Reference):
        if block.name not in bound:
            yield block
    elif isinstance(block, bb.Lambda):
        inner = bound if block.parameter_name is None else bound | {block.parameter_name}
        yield from free(block.result, inner)
    elif isinstance(block, bb.Block):
        for name, value in block.locals:
            yield from free(value, bound)
            bound |= {name}
        yield from free(block.result, bound)
    else:
        for child in block.children():
            yield from free(child, bound)


def names_in_order(*blocks: Block) -> list[str]:
    """Return the free names of several blocks, each once, in the order of first use."""
    return list(dict.fromkeys(reference.name for block in blocks for reference in free(block)))


def name_of(comp: tff.framework.ConcreteComputation) -> str:
    """Return the name of the decorated function of ``comp`` for logs and errors, or ``computation`` if unknown."""
    return name_of_block(comp.to_building_block())


def name_of_block(block: Block) -> str:
    """Return the name of a computation, given its building block before compilation."""
    if not isinstance(block, bb.Lambda):
        return UNNAMED
    named = _PARAMETER.fullmatch(block.parameter_name or "") or _LOCAL.fullmatch(_first_local(block.result))
    return named[1] if named else UNNAMED


def _first_local(block: Block) -> str:
    return str(block.locals[0][0]) if isinstance(block, bb.Block) and block.locals else ""


# --- sizes ---


def static_bytes(type_: tff.Type) -> int | None:
    """Return the bytes of one value (of one client, if clients-placed) without headers; None if no shape says so."""
    if isinstance(type_, tff.FederatedType):
        return static_bytes(type_.member)
    if isinstance(type_, tff.TensorType):
        dtype: np.dtype[Any] = np.dtype(untyped(type_).dtype)
        shape: tuple[int | None, ...] | None = untyped(type_).shape
        if shape is None or dtype.type is np.str_:
            return None
        known = [size for size in shape if size is not None]
        return math.prod(known) * dtype.itemsize if len(known) == len(shape) else None
    if isinstance(type_, tff.StructType):
        sizes = [static_bytes(part) for _, part in element_types(type_)]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None
    return None
