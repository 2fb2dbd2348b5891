"""The steps of generated programs, one function for each kind.

Each returns the value that it makes, or None if the program has nothing on which it could act.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.support.programs import shapes
from tests.support.programs.model import CLIENTS, NOWHERE, SERVER, Env, Made
from tests.support.programs.operands import LARGEST, Operand, Operands, functions, lifted
from tests.support.programs.shapes import MODULUS, D, F, N, Odict, V, is_struct, leaf_shapes, text_of

__all__ = ["SECURE", "STEPS"]


def _made(operand: Operand) -> Made:
    return Made(operand.code, operand.place, operand.shape, operand.size, operand.uses, operand.get, operand.beyond)


def _like(shape, size: int, code: str, place: str, evaluate, *operands: Operand) -> Made:
    uses = frozenset().union(*(operand.uses for operand in operands))
    return Made(code, place, shape, size, uses, evaluate)


def _placement(place: str) -> str:
    return f"tff.{place.upper()}"


# --- unplaced values, and values placed ---


def call(of: Operands) -> Made:
    operand = of.any(NOWHERE, literal=True)
    return _made(functions(of.pick, operand.shape, of.shape()).of(operand))


def call_without_argument(of: Operands) -> Made:
    shape, constant = of.shape(), of.pick(range(3))
    return _like(
        shape, MODULUS, f"given({text_of(shape)}, {constant})()", NOWHERE, lambda _: shapes.make(shape, constant)
    )


def value(of: Operands) -> Made:
    """Place a variable, a selection, a struct of these, or a literal."""
    operand, place = of.any(NOWHERE, literal=True), of.pick((CLIENTS, SERVER))
    code = f"tff.federated_value({operand.code}, {_placement(place)})"
    return _like(operand.shape, operand.size, code, place, _spread(place, operand.get), operand)


def evaluated(of: Operands) -> Made:
    shape, constant, place = of.shape(), of.pick(range(3)), of.pick((CLIENTS, SERVER))
    code = f"tff.federated_eval(given({text_of(shape)}, {constant}), {_placement(place)})"
    return _like(shape, MODULUS, code, place, _spread(place, lambda _: shapes.make(shape, constant)))


def _spread(place: str, one: Callable[[Env], Any]) -> Callable[[Env], Any]:
    return one if place == SERVER else lambda env: [one(env)] * env["clients"]


def mapped(of: Operands) -> Made | None:
    place = of.pick((CLIENTS, SERVER))
    if not of.values(place):
        return None
    operand = of.any(place)
    return _made(functions(of.pick, operand.shape, of.shape()).of(operand))


def selected(of: Operands) -> Made | None:
    place = of.pick((NOWHERE, CLIENTS, SERVER))
    structs = [one for one in of.values(place) if shapes.is_struct(one.shape) and len(one.shape)]
    if not structs:
        return None
    chosen = of.pick(structs)
    key = of.pick(list(chosen.shape) if isinstance(chosen.shape, dict) else range(len(chosen.shape)))
    text = f'"{key}"' if isinstance(key, str) else str(key)
    get = lifted(place, lambda value: value[key], lambda env: env[chosen.name])
    return Made(f"{chosen.name}[{text}]", place, chosen.shape[key], chosen.size, frozenset({chosen.name}), get)


def zipped(of: Operands) -> Made | None:
    place = of.pick((CLIENTS, SERVER))
    if not of.values(place):
        return None
    one, other, names = of.any(place), of.any(place), of.pick((None, ("z", "a")))
    if len(leaf_shapes(one.shape)) + len(leaf_shapes(other.shape)) > 12:
        return None

    def packed(*values):
        return Odict(zip(names, values, strict=True)) if names else values

    code = f"tff.federated_zip({shapes.struct_text(packed(one.code, other.code), str)})"
    shape = packed(one.shape, other.shape)
    return _like(shape, max(one.size, other.size), code, place, lifted(place, packed, one.get, other.get), one, other)


def broadcast(of: Operands) -> Made | None:
    if not of.values(SERVER):
        return None
    operand = of.any(SERVER)
    code = f"tff.federated_broadcast({operand.code})"
    return _like(operand.shape, operand.size, code, CLIENTS, _spread(CLIENTS, operand.get), operand)


# --- aggregates ---


def _is_float(shape) -> bool:
    kinds = leaf_shapes(shape)
    return bool(kinds) and all(kind in (F, D) for kind in kinds if kind is not V) and V not in kinds


def _numeric(shape) -> bool:
    return bool(leaf_shapes(shape))


def total(of: Operands) -> Made | None:
    operand = of.any(CLIENTS, _numeric)
    if operand.size > LARGEST // 8:
        return None
    shape = operand.shape

    def summed(env):
        return shapes.leaf_by_leaf(lambda *ones: np.sum(ones, axis=0), shape, *operand.get(env))

    return _like(shape, operand.size * 8, f"tff.federated_sum({operand.code})", SERVER, summed, operand)


def extreme(of: Operands) -> Made:
    operand, name = of.any(CLIENTS, _numeric), of.pick(("min", "max"))
    function = np.minimum.reduce if name == "min" else np.maximum.reduce

    def found(env):
        return shapes.leaf_by_leaf(lambda *ones: function(ones, axis=0), operand.shape, *operand.get(env))

    return _like(operand.shape, operand.size, f"tff.federated_{name}({operand.code})", SERVER, found, operand)


def mean(of: Operands) -> Made:
    """Average a value: the plain mean, or one weighted by numbers from 1 to 5."""
    operand = of.any(CLIENTS, _is_float)
    if operand.size > MODULUS:
        operand = functions(of.pick, operand.shape, operand.shape).of(operand)
    weighted = of.pick((True, False))
    weight_shape, source = of.pick((N, F)), of.any(CLIENTS)
    shape = operand.shape

    def averaged(env):
        values = operand.get(env)
        weighting = source.get(env) if weighted else []
        factors = [shapes.small(weight_shape, shapes.folded(one, 0)) for one in weighting]

        def leaf(*ones):
            kind = ones[0].dtype.type
            if not weighted:
                return np.sum(ones, axis=0, dtype=kind) / kind(len(ones))
            weights = [kind(factor) for factor in factors]
            products = [one * weight for one, weight in zip(ones, weights, strict=True)]
            return np.sum(products, dtype=kind) / np.sum(weights, dtype=kind)

        return shapes.leaf_by_leaf(leaf, shape, *values)

    weights = f"tff.federated_map(small({text_of(source.shape)}, {text_of(weight_shape)}), {source.code})"
    code = f"tff.federated_mean({operand.code}{', ' + weights if weighted else ''})"
    return _like(shape, MODULUS, code, SERVER, averaged, operand, *((source,) if weighted else ()))


def aggregate(of: Operands) -> Made:
    """Aggregate into a struct: sums from zero, or the largest numbers from any start, since TFF may start often."""
    operand, keeps_largest = of.any(CLIENTS), of.pick((True, False))
    start = of.any(NOWHERE, _numeric, literal=True) if keeps_largest else _zero(of, of.shape())
    state = start.shape
    report = functions(of.pick, state, of.shape(), ("fn", "composed", "traced"))
    name, merge, combine = ("raising", "largest", np.maximum) if keeps_largest else ("adding", "plus", np.add)
    state_text = text_of(state)

    def reported(env):
        so_far = start.get(env)
        for one in operand.get(env):
            made = shapes.make(state, shapes.folded(one, 0))
            so_far = shapes.leaf_by_leaf(combine, state, so_far, made)
        return report.call(so_far)

    parts = f"{name}({state_text}, {text_of(operand.shape)}), {merge}({state_text}), {report.code}"
    code = f"tff.federated_aggregate({operand.code}, {start.code}, {parts})"
    return _like(report.result, MODULUS, code, SERVER, reported, operand, start)


def _zero(of: Operands, shape) -> Operand:
    nothing = shapes.build(shape, lambda kind, _: np.zeros(2, N) if kind is V else kind(0))
    code = f"zeros({text_of(shape)})()" if of.pick((True, False)) else shapes.literal_text(nothing)
    return Operand(code, NOWHERE, shape, 0, frozenset(), lambda _: nothing)


# --- values that depend on chance ---


def draw(of: Operands) -> Made:
    shape, kind = of.shape(_numeric), of.pick(("random", "function", "variable", "clock", "composed"))
    return _like(shape, MODULUS, f'drawn("{kind}", {text_of(shape)})()', NOWHERE, None)


def draw_of(of: Operands) -> Made:
    """Draw a value that depends on another one, unplaced, at the server or at each client."""
    place = of.pick([place for place in (NOWHERE, SERVER, CLIENTS) if place == NOWHERE or of.values(place)])
    operand, shape = of.any(place, literal=True), of.shape(_numeric)
    function = f"noised({text_of(operand.shape)}, {text_of(shape)})"
    code = f"{function}({operand.code})" if place == NOWHERE else f"tff.federated_map({function}, {operand.code})"
    return _like(shape, MODULUS, code, place, None, operand)


def draw_placed(of: Operands) -> Made:
    shape, kind = of.shape(_numeric), of.pick(("random", "function", "variable", "clock", "composed"))
    place = of.pick((CLIENTS, SERVER))
    code = f'tff.federated_eval(drawn("{kind}", {text_of(shape)}), {_placement(place)})'
    return _like(shape, MODULUS, code, place, None)


STEPS: Mapping[str, Callable[[Operands], Made | None]] = {
    "call": call,
    "call without argument": call_without_argument,
    "federated_value": value,
    "federated_eval": evaluated,
    "federated_map": mapped,
    "selection": selected,
    "federated_zip": zipped,
    "federated_broadcast": broadcast,
    "federated_sum": total,
    "federated_min/max": extreme,
    "federated_mean": mean,
    "federated_aggregate": aggregate,
    "draw": draw,
    "draw of a value": draw_of,
    "draw in federated_eval": draw_placed,
}


# --- secure sums ---


def secure(of: Operands) -> Made:
    """Sum numbers from 1 to 5 with one bound, or one for each tensor."""
    operand, shape = of.any(CLIENTS), of.pick((N, (N,), Odict(z=N, a=shapes.L), (N, Odict(y=V))))
    small = f"tff.federated_map(small({text_of(operand.shape)}, {text_of(shape)}), {operand.code})"
    bound, each = (
        of.pick(((5, "federated_secure_sum"), (3, "federated_secure_sum_bitwidth"), (7, "modular"))),
        of.pick((True, False)),
    )
    number, name = bound
    # TFF's own context takes one modulus for all tensors only if these are int32.
    each = each or name == "modular"
    bounds = _numbers_text(shape, number) if each else str(number)
    function = "mapreduce.federated_secure_modular_sum" if name == "modular" else f"tff.{name}"

    def summed(env):
        values = [shapes.small(shape, shapes.folded(one, 0)) for one in operand.get(env)]
        sums = shapes.leaf_by_leaf(lambda *ones: np.sum(ones, axis=0), shape, *values)
        return shapes.leaf_by_leaf(lambda one: one % 7, shape, sums) if name == "modular" else sums

    return _like(shape, 40, f"{function}({small}, {bounds})", SERVER, summed, operand)


def _numbers_text(shape, number: int) -> str:
    """Return one number for each tensor, of the tensor's dtype."""
    if is_struct(shape):
        return shapes.struct_text(shape, lambda part: _numbers_text(part, number))
    return f"L({number})" if shape is shapes.L else str(number)


SECURE: Mapping[str, Callable[[Operands], Made | None]] = {"secure sum": secure}
