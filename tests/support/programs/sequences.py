"""Steps over sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tests.support.programs import shapes
from tests.support.programs.model import CLIENTS, NOWHERE, SERVER, Made
from tests.support.programs.operands import LARGEST, Operand, Operands, Variable, functions, lifted
from tests.support.programs.shapes import MODULUS, N, Sequence, is_struct, text_of

__all__ = ["SEQUENCES"]

EVERYWHERE = (NOWHERE, CLIENTS, SERVER)

# TFF's own context is not asked to run these; NumPy alone says what their results are.
NO_SUM = "sequence_sum"  # its runtime has none
MADE = "a sequence that TensorFlow makes"  # its runtime reduces only sequences that were passed in
STRUCTS = "a sequence of structs"  # it sorts their names, and loses the structs of mapped ones


def _beyond(sequence: Variable) -> str | None:
    if sequence.made:
        return MADE
    return STRUCTS if is_struct(sequence.shape.element) else None


def _operand(sequence: Variable) -> Operand:
    name = sequence.name
    return Operand(name, sequence.place, sequence.shape, sequence.size, frozenset({name}), lambda env: env[name])


def map_sequence(of: Operands) -> Made | None:
    if not (choices := of.sequences(*EVERYWHERE)):
        return None
    sequence = of.pick(choices)
    function = functions(of.pick, sequence.shape.element, of.shape())

    def mapped(elements):
        return [function.call(one) for one in elements]

    return Made(
        f"tff.sequence_map({function.code}, {sequence.name})",
        sequence.place,
        Sequence(function.result),
        MODULUS,
        frozenset({sequence.name}),
        lifted(sequence.place, mapped, _operand(sequence).get),
        _beyond(sequence) or (STRUCTS if is_struct(function.result) else None),
        made=sequence.made,
    )


def reduce_sequence(of: Operands) -> Made | None:
    if not (choices := of.sequences(*EVERYWHERE)):
        return None
    sequence = of.pick(choices)
    place = sequence.place
    if place == NOWHERE:
        zero = of.any(NOWHERE, literal=True)
    elif of.values(place) and of.pick((True, False)):
        zero = of.any(place)
    else:
        literal = of.literal()
        spread = lifted_literal(place, literal)
        code = f"tff.federated_value({literal.code}, tff.{place.upper()})"
        zero = Operand(code, place, literal.shape, literal.size, literal.uses, spread)
    if isinstance(zero.shape, tuple) and place != NOWHERE and zero.code.startswith("("):
        zero = functions(of.pick, zero.shape, of.shape()).of(zero)  # sequence_reduce zips no structs
    if isinstance(zero.shape, dict) and place != NOWHERE and zero.code.startswith("Odict("):
        zero = functions(of.pick, zero.shape, of.shape()).of(zero)
    step = functions(of.pick, (zero.shape, sequence.shape.element), zero.shape)

    def reduced(elements, state):
        for one in elements:
            state = step.call((state, one))
        return state

    return Made(
        f"tff.sequence_reduce({sequence.name}, {zero.code}, {step.code})",
        place,
        zero.shape,
        max(MODULUS, zero.size),
        zero.uses | {sequence.name},
        lifted(place, reduced, _operand(sequence).get, zero.get),
        _beyond(sequence),
    )


def lifted_literal(place: str, literal: Operand):
    return (lambda env: [literal.get(env)] * env["clients"]) if place == CLIENTS else literal.get


def reduce_in_function(of: Operands) -> Made | None:
    """Map a function over placed sequences (call it, of an unplaced one) that reduces in TFF or in TensorFlow."""
    if not (choices := of.sequences(*EVERYWHERE)):
        return None
    sequence, kind, constant = of.pick(choices), of.pick(("reducing", "reduced")), of.pick(range(3))
    element, shape = sequence.shape.element, of.shape()
    code = f"{kind}({text_of(element)}, {text_of(shape)}, {constant})"

    def in_tff(elements):
        state = shapes.make(shape, constant)
        for one in elements:
            state = shapes.make(shape, shapes.folded((state, one), constant))
        return state

    def in_tensorflow(elements):
        state = N(constant)
        for one in elements:
            state = N(shapes.folded((state, one), 0))
        return shapes.make(shape, int(state))

    whole = f"{code}({sequence.name})" if sequence.place == NOWHERE else f"tff.federated_map({code}, {sequence.name})"
    evaluate = lifted(sequence.place, in_tff if kind == "reducing" else in_tensorflow, _operand(sequence).get)
    beyond = _beyond(sequence) if kind == "reducing" else None
    return Made(whole, sequence.place, shape, MODULUS, frozenset({sequence.name}), evaluate, beyond)


def sum_sequence(of: Operands) -> Made | None:
    choices = [
        one for one in of.sequences(*EVERYWHERE) if one.size <= LARGEST // 8 and shapes.leaf_shapes(one.shape.element)
    ]
    if not choices:
        return None
    sequence = of.pick(choices)
    element = sequence.shape.element
    nothing = shapes.build(element, lambda kind, _: np.zeros(2, N) if kind is shapes.V else kind(0))

    def summed(elements):
        return shapes.leaf_by_leaf(lambda *ones: np.sum(ones, axis=0), element, nothing, *elements)

    return Made(
        f"tff.sequence_sum({sequence.name})",
        sequence.place,
        element,
        sequence.size * 8,
        frozenset({sequence.name}),
        lifted(sequence.place, summed, _operand(sequence).get),
        NO_SUM,
    )


def make_sequence(of: Operands) -> Made | None:
    place = of.pick([place for place in EVERYWHERE if place == NOWHERE or of.values(place)])
    operand, element, size = of.any(place, literal=True), of.shape(), of.pick(range(4))
    function = f"made({text_of(operand.shape)}, {text_of(element)}, {size})"

    def elements(value):
        number = shapes.folded(value, 0)
        return [shapes.make(element, (number + at) % MODULUS) for at in range(size)]

    code = f"{function}({operand.code})" if place == NOWHERE else f"tff.federated_map({function}, {operand.code})"
    evaluate = lifted(place, elements, operand.get)
    return Made(code, place, Sequence(element), MODULUS, operand.uses, evaluate, made=True)


def select(of: Operands) -> Made | None:
    """Select two rows of a server's value for each client."""
    if not of.values(SERVER):
        return None
    table, key, shape = of.any(SERVER), of.any(CLIENTS), of.shape()
    row = functions(of.pick, (table.shape, N), shape, ("fn", "composed", "traced"))
    numbers = f"tff.federated_map(keys({text_of(key.shape)}), {key.code})"
    largest = "tff.federated_value(N(3), tff.SERVER)"

    def rows(env):
        server = table.get(env)
        chosen = [[(shapes.folded(one, 0) + at) % 3 for at in range(2)] for one in key.get(env)]
        return [[row.call((server, N(number))) for number in numbers] for numbers in chosen]

    return Made(
        f"tff.federated_select({numbers}, {largest}, {table.code}, {row.code})",
        CLIENTS,
        Sequence(shape),
        MODULUS,
        table.uses | key.uses,
        rows,
        made=True,
    )


SEQUENCES: Mapping[str, Callable[[Operands], Made | None]] = {
    "sequence_map": map_sequence,
    "sequence_reduce": reduce_sequence,
    "sequence reduced in a function": reduce_in_function,
    "sequence_sum": sum_sequence,
    "sequence made by TensorFlow": make_sequence,
    "federated_select": select,
}
