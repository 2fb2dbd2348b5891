"""Masked sums: the strategy for TFF's secure sums that shows the coordinator their totals only.

Each silo sums the values of its own clients, with TFF's checks of their range. That partial is masked outside of the
C++ runtime. The coordinator adds the masked partials, also outside of it, and the server stage gets the total.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics as mapreduce
from tensorflow_federated.python.core.backends.test import compiler as test_compiler
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import intrinsic_defs

from fedbroker.errors import PlanError
from fedbroker.plan.aggregation import at_server
from fedbroker.plan.blocks import Block, as_computation, bind, element, element_types, elements_of, untyped
from fedbroker.plan.constants import number_of_literal, with_literals
from fedbroker.plan.model import MaskedSum, MaskedTensor, Slot
from fedbroker.plan.secure_partials import bounded_sum, checked_below, has_static_shapes, modular_sum, tensors_of

__all__ = ["SECURE_SUMS", "Masked", "masked_of", "with_moduli_as_locals"]

SUM: Final = intrinsic_defs.FEDERATED_SECURE_SUM.uri
BITWIDTH: Final = intrinsic_defs.FEDERATED_SECURE_SUM_BITWIDTH.uri
MODULAR: Final = mapreduce.FEDERATED_SECURE_MODULAR_SUM.uri

SECURE_SUMS: Final = frozenset({SUM, BITWIDTH, MODULAR})

MAX_BITWIDTH: Final = 62
"""Largest bit width that TFF accepts."""


class Masked:
    """Each silo masks its partial sum; the coordinator sees the total."""

    def slots(self, name: str, call: Block) -> MaskedSum:
        """Return the slots through which the secure sum bound to ``name`` passes.

        Raises:
            PlanError: a modulus is no number that its values can be taken modulo of.
        """
        value, bound = _operands(call)
        summed = _summand(value)
        tensors = tuple(_tensors(_uri(call), summed, bound))
        return MaskedSum(
            partial=Slot(f"{name}_partial", tff.FederatedType(summed, tff.SERVER)),
            total=Slot(f"{name}_total", summed),
            tensors=tensors,
            moduli=_moduli(bound, tensors) if _uri(call) == MODULAR else None,
        )

    def partial(self, call: Block) -> Block:
        """Return the silo's half: the sum over its own clients, with TFF's checks of their range.

        Where the program states the bound as a number, values below minus the bound fail, too: masked values are
        packed into the bytes that sums within the bounds need.
        """
        value, bound = _operands(call)
        summed = _summand(value)
        if _uri(call) == MODULAR:
            return modular_sum(value, bound)
        tensors = list(_tensors(_uri(call), summed, bound))
        value = checked_below(value, [tensor.largest for tensor in tensors])
        if not has_static_shapes(summed):
            return bounded_sum(value, bound, bits=_uri(call) == BITWIDTH)
        return _body_of_tff(_uri(call), value, bound, call.type_signature)

    def report(self, total: Slot) -> bb.Call:
        """Return the server's half, over a reference to the total."""
        return at_server(bb.Reference(total.name, total.type))


_MASKED: Final = Masked()


def masked_of(block: Block) -> Masked | None:
    """Return the strategy if ``block`` is a secure sum, else None."""
    return _MASKED if _is_secure_sum(block) else None


def with_moduli_as_locals(
    locals_: Sequence[tuple[str, Block]],
) -> tuple[tuple[tuple[str, Block], ...], frozenset[str]]:
    """Write the bounds and moduli of secure sums as literals where possible, and other moduli as locals of their own.

    A modulus is part of the protocol: the silos and the coordinator have to use the same one, so that it is evaluated
    once.

    Returns:
        The locals, in order of evaluation, and the names of those to evaluate exactly once.
    """
    known: dict[str, Block] = {}
    once: set[str] = set()
    for name, block in locals_:
        if not _is_secure_sum(block):
            known[name] = block
            continue
        value, bound = _operands(block)
        bound = with_literals(bound, known)
        if _uri(block) == MODULAR and not _is_literal(bound):
            modulus = f"{name}_modulus"
            known[modulus] = bound
            once.add(modulus)
            bound = bb.Reference(modulus, bound.type_signature)
        known[name] = bb.Call(_intrinsic(block), bb.Struct([value, bound]))
    return tuple(known.items()), frozenset(once)


def _is_secure_sum(block: Block) -> bool:
    return isinstance(block, bb.Call) and isinstance(block.function, bb.Intrinsic) and block.function.uri in SECURE_SUMS


def _intrinsic(call: Block) -> bb.Intrinsic:
    assert isinstance(call, bb.Call)
    assert isinstance(call.function, bb.Intrinsic)
    return call.function


def _uri(call: Block) -> str:
    return str(_intrinsic(call).uri)


def _operands(call: Block) -> tuple[Block, Block]:
    """Return the values, and their bound, bit width or modulus."""
    assert isinstance(call, bb.Call)
    return element(call.argument, 0), element(call.argument, 1)


def _summand(value: Block) -> tff.Type:
    assert isinstance(value.type_signature, tff.FederatedType)
    return value.type_signature.member


def _is_literal(bound: Block) -> bool:
    if isinstance(bound, bb.Struct):
        return all(_is_literal(part) for _, part in elements_of(bound))
    return isinstance(bound, bb.Literal)


def _bounds(bound: Block, type_: tff.Type) -> Iterator[int | None]:
    """Yield the number that the program states for each tensor of a type, left to right; None if it computes it."""
    if isinstance(type_, tff.StructType):
        single = not isinstance(bound.type_signature, tff.StructType)
        for index, (_, part) in enumerate(element_types(type_)):
            yield from _bounds(bound if single else element(bound, index), part)
    else:
        yield number_of_literal(bound)


def _tensors(uri: str, type_: tff.Type, bound: Block) -> Iterator[MaskedTensor]:
    for tensor, number in zip(tensors_of(type_), _bounds(bound, type_), strict=True):
        name = np.dtype(tensor.dtype.type).name
        if uri == MODULAR:
            _check_modulus(number, tensor)
            yield MaskedTensor(name, modulus=number)
        else:
            yield MaskedTensor(name, largest=_largest(uri, number))


def _largest(uri: str, number: int | None) -> int | None:
    if number is None or number < 0:
        return None
    if uri == BITWIDTH:
        return (1 << number) - 1 if number <= MAX_BITWIDTH else None
    return number


def _check_modulus(modulus: int | None, tensor: tff.TensorType) -> None:
    largest = int(np.iinfo(tensor.dtype.type).max)
    if modulus is not None and not 0 < modulus <= largest:
        raise PlanError(
            f"values of type {tensor} cannot be summed modulo {modulus}",
            intrinsic=MODULAR,
            hint=f"use a modulus from 1 to {largest}, or values of a wider dtype",
        )


def _moduli(bound: Block, tensors: Sequence[MaskedTensor]) -> Slot | None:
    if all(tensor.modulus is not None for tensor in tensors):
        return None
    assert isinstance(bound, bb.Reference), "a modulus that is computed is a local"
    return Slot(bound.name, bound.type_signature)


def _body_of_tff(uri: str, value: Block, bound: Block, type_: tff.Type) -> Block:
    """Return the ordinary aggregate that TFF's test backend computes in place of a secure sum."""
    values = tff.FederatedType(_summand(value), tff.CLIENTS)
    operands = bb.Reference("operands", tff.StructType([values, bound.type_signature]))
    call = bb.Call(bb.Intrinsic(uri, tff.FunctionType(operands.type_signature, type_)), operands)
    function = as_computation(bb.Lambda(operands.name, operands.type_signature, call))
    body = untyped(test_compiler).replace_secure_intrinsics_with_bodies(function).to_building_block()
    assert isinstance(body, bb.Lambda)
    assert body.parameter_name is not None
    bound_values: Mapping[str, Block] = {body.parameter_name: bb.Struct([value, bound])}
    return bind(body.result, bound_values)
