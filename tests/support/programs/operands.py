"""Operands of a generated program's steps: variables, selections, structs, literals, and functions of them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Choices
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from tests.support.programs import shapes
from tests.support.programs.model import CLIENTS, NOWHERE, Env
from tests.support.programs.shapes import F, N, Odict, Sequence, is_struct, leaf_shapes, struct_text, text_of

__all__ = ["Function", "Operand", "Pick", "Variable", "functions", "lifted"]

LARGEST = 2**20
"""Sums of larger numbers are not exact in float32, even of a few."""

LEAVES = 8


class Pick(Protocol):
    """Chooses one of several options."""

    def __call__(self, options: Choices[Any]) -> Any: ...


@dataclass(frozen=True)
class Variable:
    name: str
    place: str
    shape: Any
    size: int
    made: bool = False


@dataclass(frozen=True)
class Operand:
    """An expression, and the same in NumPy."""

    code: str
    place: str
    shape: Any
    size: int
    uses: frozenset[str]
    get: Callable[[Env], Any]
    beyond: str | None = None


@dataclass(frozen=True)
class Function:
    """A function between two shapes: source, and the same in NumPy."""

    code: str
    result: Any
    call: Callable[[Any], Any]

    @property
    def pure(self) -> bool:
        return not self.code.startswith("variable")

    def of(self, operand: Operand) -> Operand:
        """Apply it to an operand; at a placement by ``federated_map``."""
        code = (
            f"{self.code}({operand.code})"
            if operand.place == NOWHERE
            else f"tff.federated_map({self.code}, {operand.code})"
        )
        get = lifted(operand.place, self.call, operand.get)
        return replace(operand, code=code, shape=self.result, size=shapes.MODULUS, get=get)


def lifted(place: str, function: Callable[..., Any], *values: Callable[[Env], Any]) -> Callable[[Env], Any]:
    """Return the evaluation of a function of values at one placement: at clients, of each client's."""
    if place == CLIENTS:
        return lambda env: [function(*row) for row in zip(*(value(env) for value in values), strict=True)]
    return lambda env: function(*(value(env) for value in values))


def functions(pick: Pick, parameter, result, kinds: Choices[str] = ("fn", "fn", "composed", "variable", "traced")):
    """Choose a function from one shape to another."""
    kind, constant = pick(kinds), pick(range(3))
    code = f"{kind}({text_of(parameter)}, {text_of(result)}, {constant})"
    if kind == "composed":

        def call(value):
            middle = shapes.make((N, F), shapes.folded(value, constant))
            return shapes.make(result, shapes.folded((*middle, shapes.make(N, constant)), 1))

        return Function(code, result, call)
    return Function(code, result, lambda value: shapes.make(result, shapes.folded(value, constant)))


class Operands:
    """Chooses operands among the variables so far."""

    def __init__(self, pick: Pick, variables: list[Variable]) -> None:
        self.pick = pick
        self.variables = variables

    def values(self, place: str) -> list[Variable]:
        return [one for one in self.variables if one.place == place and not isinstance(one.shape, Sequence)]

    def sequences(self, *places: str) -> list[Variable]:
        return [one for one in self.variables if one.place in places and isinstance(one.shape, Sequence)]

    def shape(self, suited: Callable[[Any], bool] = lambda _: True):
        return self.pick([shape for shape in shapes.SHAPES if suited(shape)])

    def literal(self, shape=None) -> Operand:
        """Choose a constant, which becomes a part of the program's text."""
        value = shapes.make(self.shape() if shape is None else shape, self.pick(range(50)))
        chosen = shape if shape is not None else _shape_of(value)
        return Operand(shapes.literal_text(value), NOWHERE, chosen, shapes.MODULUS, frozenset(), lambda _: value)

    def any(self, place: str, suited: Callable[[Any], bool] = lambda _: True, *, literal: bool = False) -> Operand:
        """Choose a value at a placement: a variable, a selection from one, or a struct of several.

        Args:
            place: its placement.
            suited: whether its shape is accepted; of no value has such a shape, a function makes it.
            literal: True if an unplaced constant is accepted.
        """
        variables = self.values(place)
        if place == NOWHERE and (not variables or (literal and self.pick((True, False)))):
            operand = self.literal()
            return operand if suited(operand.shape) else self.literal(self.shape(suited))
        operand = (
            self._struct(place, variables) if self.pick(range(4)) == 3 else self._selected(self._recent(variables))
        )
        if suited(operand.shape):
            return operand
        return functions(self.pick, operand.shape, self.shape(suited)).of(operand)

    def of_shape(self, place: str, shape) -> Operand:
        """Choose a value of one shape, made by a function if none has it."""
        having = [one for one in self.values(place) if one.shape is shape or one.shape == shape]
        if having and self.pick((True, True, False)):
            return _of(self.pick(having))
        if place == NOWHERE:
            return self.literal(shape)
        operand = self.any(place)
        return functions(self.pick, operand.shape, shape).of(operand)

    def _recent(self, variables: list[Variable]) -> Variable:
        """Choose a variable, often one of the last: so programs become deep."""
        return self.pick(variables[-3:] if self.pick((True, False)) else variables)

    def _struct(self, place: str, variables: list[Variable]) -> Operand:
        parts = [self._selected(self._recent(variables)) for _ in range(self.pick((1, 2, 2, 3)))]
        if sum(len(leaf_shapes(part.shape)) for part in parts) > LEAVES:
            parts = parts[:1]
        names = ("z", "a", "m") if self.pick((True, False)) else None

        def packed(*values):
            return Odict(zip(names, values, strict=False)) if names else values

        operand = Operand(
            struct_text(packed(*(part.code for part in parts)), str),
            place,
            packed(*(part.shape for part in parts)),
            max(part.size for part in parts),
            frozenset().union(*(part.uses for part in parts)),
            lifted(place, packed, *(part.get for part in parts)),
        )
        return operand

    def _selected(self, variable: Variable) -> Operand:
        operand = _of(variable)
        while is_struct(operand.shape) and len(operand.shape) and self.pick(range(3)) == 2:
            operand = self._element(operand)
        return operand

    def _element(self, operand: Operand) -> Operand:
        struct = operand.shape
        key = self.pick(list(struct) if isinstance(struct, dict) else range(len(struct)))
        code = f"{operand.code}[{key!r}]".replace("'", '"')
        return replace(
            operand, code=code, shape=struct[key], get=lifted(operand.place, lambda value: value[key], operand.get)
        )


def _of(variable: Variable) -> Operand:
    name = variable.name
    return Operand(name, variable.place, variable.shape, variable.size, frozenset({name}), lambda env: env[name])


def _shape_of(value):
    if isinstance(value, dict):
        return Odict((name, _shape_of(part)) for name, part in value.items())
    if isinstance(value, tuple):
        return tuple(_shape_of(part) for part in value)
    return shapes.V if isinstance(value, np.ndarray) else type(value)
