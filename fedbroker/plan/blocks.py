"""TFF's building blocks and types: bound and free names, the name of a computation, the size of a value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

import numpy as np
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

__all__ = [
    "UNNAMED",
    "Block",
    "bind",
    "elements_of",
    "free",
    "name_of",
    "name_of_block",
    "names_in_order",
    "static_bytes",
    "walk",
]

Block: TypeAlias = bb.ComputationBuildingBlock

UNNAMED: Final = "computation"

# TFF keeps no name, but derives the names of parameter and locals from the name of the decorated function.
_PARAMETER: Final = re.compile(r"(.+)_arg(_\d+)?")
_LOCAL: Final = re.compile(r"fc_(.+)_symbol_\d+")


def elements_of(type_or_struct: object) -> list[tuple[str | None, object]]:
    """Return name (or None) and value of each element of a TFF struct or struct type."""
    return list(tff.structure.iter_elements(type_or_struct))


def bind(block: Block, values: Mapping[str, Block]) -> Block:
    """Replace the free references named in ``values`` in ``block``, and resolve selections from structs."""
    if isinstance(block, bb.Reference):
        return values.get(block.name, block)
    if isinstance(block, bb.Selection):
        source = bind(block.source, values)
        index = block.as_index()
        return source[index] if isinstance(source, bb.Struct) else bb.Selection(source, index=index)
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
        bound = []
        for name, value in block.locals:
            bound.append((name, bind(value, inner)))
            inner.pop(name, None)
        return bb.Block(bound, bind(block.result, inner))
    return block


def walk(block: Block) -> Iterator[Block]:
    """Yield ``block`` and every block in it."""
    yield block
    for child in block.children():
        yield from walk(child)


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
    """Return the name of the decorated function of ``comp``, or ``computation`` if it is unknown."""
    return name_of_block(comp.to_building_block())


def name_of_block(block: Block) -> str:
    """Return the name of a computation, given its building block before compilation."""
    if not isinstance(block, bb.Lambda):
        return UNNAMED
    named = _PARAMETER.fullmatch(block.parameter_name or "") or _LOCAL.fullmatch(_first_local(block.result))
    return named[1] if named else UNNAMED


def _first_local(block: Block) -> str:
    return str(block.locals[0][0]) if isinstance(block, bb.Block) and block.locals else ""


def static_bytes(type_: tff.Type) -> int | None:
    """Return the bytes of one value (of one client, if clients-placed) without headers; None if no shape says so."""
    if isinstance(type_, tff.FederatedType):
        return static_bytes(type_.member)
    if isinstance(type_, tff.TensorType):
        shape = type_.shape
        if shape is None or None in shape or type_.dtype.type is np.str_:
            return None
        return int(math.prod(shape) * np.dtype(type_.dtype).itemsize)
    if isinstance(type_, tff.StructType):
        sizes = [static_bytes(element) for _, element in tff.structure.iter_elements(type_)]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    return None
