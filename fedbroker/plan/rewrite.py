"""Small rewrites of TFF building blocks: binding names, and finding the names that are free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

__all__ = ["bind", "elements_of", "free", "names_in_order", "walk"]

Block: TypeAlias = bb.ComputationBuildingBlock


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
